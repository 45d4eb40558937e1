"""SQS takes ten entries and 1 MiB in one call, and refuses all entries of a larger call."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_call_relay.queues import MAX_MESSAGES
from ops.queues import chunks
from tests.support.template import template

MIB = 1024 * 1024

ATTRIBUTES = st.dictionaries(
    st.sampled_from(["reason", "detail", "http_status", "x" * 256]),
    st.builds(
        lambda kind, value: {"DataType": kind, "StringValue": value},
        st.sampled_from(["String", "Number"]),
        st.text("a\xe9", min_size=1, max_size=256),
    ),
)
BODIES = st.builds(
    lambda letter, size: letter * size,
    st.sampled_from(["a", "\xe9", "\U0001f4de"]),  # 1, 2 and 4 bytes
    st.integers(0, 100) | st.integers(100_000, 120_000) | st.integers(260_000, 270_000) | st.just(MIB),
)
PARKS = st.fixed_dictionaries({"MessageBody": BODIES, "MessageAttributes": ATTRIBUTES})
HIDES = st.builds(lambda delay: {"ReceiptHandle": "h", "VisibilityTimeout": delay}, st.integers(0, 43_200))


def weight(entry: dict[str, Any]) -> int:
    """Return the bytes that SQS counts for an entry."""
    counted: str = entry.get("MessageBody", "")
    for name, value in entry.get("MessageAttributes", {}).items():
        counted += name + value["DataType"] + value["StringValue"]
    return len(counted.encode())


@settings(max_examples=60)
@given(st.lists(PARKS, max_size=25) | st.lists(HIDES, max_size=45))
def test_every_call_is_within_the_limits_of_sqs(entries: list[dict[str, Any]]) -> None:
    """SQS would refuse whole batches of parked messages, or a command would lose, repeat or reorder one."""
    by_id = {f"id-{number}": entry for number, entry in enumerate(entries)}
    cut = list(chunks(by_id))
    assert [message_id for chunk in cut for message_id in chunk] == list(by_id)
    for chunk in cut:
        assert 1 <= len(chunk) <= 10
        assert len(chunk) == 1 or sum(weight(by_id[message_id]) for message_id in chunk) <= MIB
    for chunk, following in pairwise(cut):  # or settling a batch would take needless calls
        too_heavy = sum(weight(by_id[message_id]) for message_id in [*chunk, following[0]]) > MIB
        assert len(chunk) == 10 or too_heavy


@pytest.mark.parametrize(
    ("spare", "expected"),
    [(14, [["a", "b"], ["c"]]), (13, [["a"], ["b", "c"]])],
    ids=["exactly 1 MiB", "one byte more"],
)
def test_attributes_count_towards_the_limit_of_1_mib(spare: int, expected: list[list[str]]) -> None:
    """SQS would refuse two messages of nearly 1 MiB because of the few bytes of their attributes."""
    attributes = {"name": {"DataType": "Number", "StringValue": "1234"}}  # 4 + 6 + 4 bytes
    half = {"MessageBody": "x" * (MIB // 2)}
    other = {"MessageBody": "x" * (MIB // 2 - spare), "MessageAttributes": attributes}
    assert list(chunks({"a": half, "b": other, "c": {"MessageBody": "x"}})) == expected


def test_the_messages_that_the_relay_sends_in_one_call_fit() -> None:
    """SQS would refuse to park large messages, and the relay would try them for ten days."""
    largest = template()["Resources"]["ResultQueue"]["Properties"]["MaximumMessageSize"]
    assert MAX_MESSAGES * (largest + 1024) <= MIB  # the attributes take less than 1 KiB
