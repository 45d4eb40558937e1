"""Trigger events become records; a record that is not a result says why."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_call_relay.events import parse_body, read
from flash_call_relay.models import FlashCallResult, NoResult
from tests.support.payloads import payload

NOW = 1_763_900_000.0
UUID = "01JV5V54KPYK9GB29265EQRZ2P"
RESULT = {"uuid": UUID, "status": "Success"}
PAIR = f'"uuid": "{UUID}", "status": "Success"'  # of a JSON object

TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too
UUIDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128)
STATUSES = st.sampled_from(["Success", "Failed"])
KEYS = st.sampled_from(["uuid", "status", "detail", "detail-type", "Records", "eventSource", "id"]) | TEXT
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from([UUID, "Failed", "aws:sqs"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)

NO_RESULTS = {
    "nothing": ("", "not valid JSON"),
    "a form": ("uuid=01JV&status=Success", "not valid JSON"),
    "two objects": (f"{{{PAIR}}}" * 2, "not valid JSON"),
    "a byte-order mark": (f"\ufeff{{{PAIR}}}", "begins with a byte order mark"),
    "open brackets": ("[" * 100_000, "not valid JSON"),
    "deep nesting": ('{"uuid": ' * 100_000 + "1" + "}" * 100_000, "too large, too deep"),
    "a huge number": (f'{{{PAIR}, "at": {"9" * 5000}}}', "too large, too deep"),
    "256 KiB of text": ("x" * 256 * 1024, "not valid JSON"),
    "a string of 256 KiB": (json.dumps("x" * 256 * 1024), "the body is a string"),
    "a result encoded twice": (json.dumps(json.dumps(RESULT)), "the body is a string"),
    "a list": (json.dumps([RESULT]), "the body is a list"),
    "infinity": ("1e999", "the body is a number"),
    "true": ("true", "the body is a boolean"),
    "null": ("null", "the body is null"),
    "an empty object": ("{}", "the body has no uuid"),
    "no status": ('{"uuid": "a"}', "the body has no status"),
    "no uuid": ('{"status": "Failed"}', "the body has no uuid"),
    "Uuid for uuid": ('{"Uuid": "a", "status": "Failed"}', "the body has no uuid"),
    "uuid twice": (f'{{{PAIR}, "uuid": "{UUID}"}}', "the body gives uuid more than once"),
    "status twice": (f'{{{PAIR}, "status": "Failed"}}', "the body gives status more than once"),
    "an encoded detail": (json.dumps({"detail-type": "x", "detail": json.dumps(RESULT)}), "detail is a string"),
    "a null detail": (json.dumps({"detail-type": "x", "detail": None, **RESULT}), "detail is null"),
    "an empty detail": (json.dumps({"detail-type": "x", "detail": {}, **RESULT}), "detail has no uuid"),
    "uuid twice in a detail": (
        f'{{"detail-type": "x", "detail": {{{PAIR}, "uuid": 1}}}}',
        "the body gives uuid more than once",
    ),
    "detail twice": (
        f'{{"detail-type": "x", "detail": {{{PAIR}}}, "detail": {{{PAIR}}}}}',
        "the body gives detail more than once",
    ),
    "an SNS envelope": (
        json.dumps({"Type": "Notification", "TopicArn": "x", "Message": "{}"}),
        "SNS envelope, and only its Message is wanted",
    ),
}


def fault(body: str) -> str:
    """Return the fault of a body that is not a result."""
    content = parse_body(body)
    assert isinstance(content, NoResult)
    return content.fault


class TestPayloads:
    """The payloads of `events/`, which the tests, `sam local invoke` and the demo share."""

    @pytest.mark.parametrize(
        ("name", "status"), [("sqs-success", "Success"), ("sqs-failed", "Failed"), ("sqs-eventbridge", "Success")]
    )
    def test_a_documented_payload_is_a_result(self, name: str, status: str) -> None:
        """The relay would not deliver a documented message, or would hide, delete or park another one in its place."""
        event = payload(name)
        (record,), (sent,) = read(event, now=NOW), event["Records"]
        assert record.content == FlashCallResult(UUID, status)  # type: ignore[arg-type]
        assert (record.message_id, record.receipt_handle) == (sent["messageId"], sent["receiptHandle"])
        assert (record.body, record.receive_count, record.sent_at) == (sent["body"], 1, 1_763_800_000.0)

    def test_a_batch_keeps_its_order_and_its_invalid_message(self) -> None:
        """One malformed message would fail its whole batch, or vanish from it."""
        event = payload("sqs-batch-one-invalid")
        records = read(event, now=NOW)
        assert [record.message_id for record in records] == [sent["messageId"] for sent in event["Records"]]
        assert [record.body for record in records] == [sent["body"] for sent in event["Records"]]
        invalid = [record for record in records if isinstance(record.content, NoResult)]
        assert [record.message_id[-2:] for record in invalid] == ["04"]

    def test_a_batch_of_plain_results_and_envelopes_is_read_in_full(self) -> None:
        """The relay would lose messages of a queue that receives both plain results and events."""
        mixed = [*payload("sqs-failed")["Records"], *payload("sqs-eventbridge")["Records"]]
        contents = [record.content for record in read({"Records": mixed}, now=NOW)]
        assert contents == [FlashCallResult(UUID, "Failed"), FlashCallResult(UUID, "Success")]

    def test_receive_count_and_send_time_are_those_of_sqs(self) -> None:
        """Retries would come too soon or never end."""
        event = payload("sqs-success")
        event["Records"][0]["attributes"] |= {"ApproximateReceiveCount": "17", "SentTimestamp": "1763800000123"}
        (record,) = read(event, now=NOW)
        assert (record.receive_count, record.sent_at) == (17, 1_763_800_000.123)

    def test_a_direct_event_is_a_record_without_a_receipt_handle_sent_now(self) -> None:
        """The relay would give a direct event an age that the producer chose, or could not queue it unchanged."""
        event = payload("eventbridge")
        (record,) = read(event, now=NOW)
        assert record.content == FlashCallResult(UUID, "Success")
        assert (record.message_id, record.receipt_handle) == (event["id"], None)
        assert (record.sent_at, record.receive_count) == (NOW, 1)  # not the event's `time`, which is the producer's
        assert json.loads(record.body) == event
        assert parse_body(record.body) == record.content  # once it comes back from the queue

    def test_an_empty_batch_has_no_records(self) -> None:
        """A poller's empty batch would raise an alarm."""
        assert read({"Records": []}, now=NOW) == []


class TestBodies:
    """The bodies that are results, and the faults of the others."""

    @pytest.mark.parametrize(
        "body",
        [
            f'{{{PAIR}, "customer": {{"deep": [1, null]}}, "uuid2": "other"}}',
            f'{{{PAIR}, "customer": 1, "customer": 2}}',
            f'{{{PAIR}, "detail": {{"uuid": "other", "status": "Failed"}}}}',
            f'{{{PAIR}, "detail-type": "Flash Call Result"}}',
            f'{{{PAIR}, "Message": "{{}}"}}',
            f'{{"uuid": "other", "status": "Failed", "detail-type": "any", "detail": {{{PAIR}}}}}',
            f"\n\t {{{PAIR}}} \r\n",
            rf'{{"\u0075uid": "{UUID}", "status": "S\u0075ccess"}}',
        ],
        ids=[
            *(
                "further keys",
                "a repeated further key",
                "a detail without a detail-type",
                "a detail-type without a detail",
            ),
            *("a Message without a TopicArn", "keys beside an envelope"),
            *("white space around it", "escaped characters"),
        ],
    )
    def test_further_keys_of_a_result_are_ignored(self, body: str) -> None:
        """A producer that adds a key would find its results on the parked queue."""
        assert parse_body(body) == FlashCallResult(UUID, "Success")

    @pytest.mark.parametrize(("body", "words"), NO_RESULTS.values(), ids=NO_RESULTS)
    def test_a_body_that_is_not_a_result_has_a_fault(self, body: str, words: str) -> None:
        """An engineer could not tell from a parked message what the producer does wrong."""
        said = fault(body)
        assert words in said
        assert len(said) < 256
        assert said.endswith("expected a JSON object with uuid and status")

    @pytest.mark.parametrize(
        ("uuid", "words"),
        [
            ("", "got 0 characters"),
            ("a" * 129, "got 129 characters"),
            ("a" * 200_000, "got 200000 characters"),
            ("01JV\xe9", "got U+00E9 at position 4"),
            ("\uff11", "got U+FF11 at position 0"),
            ("01JV 5V54", "got U+0020 at position 4"),
            ("01JV\n", "got U+000A at position 4"),
            ("\x7f", "got U+007F at position 0"),
            ("\ud800", "got U+D800 at position 0"),
            (7, "got a number"),
            (1.5, "got a number"),
            (True, "got a boolean"),
            (None, "got null"),
            ([UUID], "got a list"),
            ({"uuid": UUID}, "got an object"),
        ],
        ids=lambda value: value.removeprefix("got ") if str(value).startswith("got ") else "uuid",
    )
    def test_a_malformed_uuid_has_a_fault(self, uuid: object, words: str) -> None:
        """The relay would ask BetaTel about an impossible call, or a uuid could forge a header or a log line."""
        said = fault(json.dumps({"uuid": uuid, "status": "Success"}))
        assert said == f"uuid must be a string of 1 to 128 visible ASCII characters, {words}"

    @pytest.mark.parametrize(
        ("status", "words"),
        [
            ("success", 'got "success"'),
            ("FAILED", 'got "FAILED"'),
            ("Success ", 'got "Success "'),
            ("", 'got ""'),
            ("x" * 100_000, f'got "{"x" * 40}"'),
            ("\ud800", r'got "\ud800"'),
            (0, "got a number"),
            (False, "got a boolean"),
            (None, "got null"),
            (["Success"], "got a list"),
            ({}, "got an object"),
        ],
    )
    def test_an_unknown_status_has_a_fault(self, status: object, words: str) -> None:
        """The relay would send BetaTel a verdict that it does not know, or guess one."""
        said = fault(json.dumps({"uuid": UUID, "status": status}))
        assert said.startswith('status must be exactly "Success" or "Failed", got ')
        assert words in said
        assert len(said) < 256

    @given(UUIDS, STATUSES, st.dictionaries(TEXT, JSON, max_size=3))
    def test_any_result_is_read_unchanged_from_each_source(
        self, uuid: str, status: str, further: dict[str, Any]
    ) -> None:
        """The relay would change some uuids, or refuse them, depending on the source."""
        further = {key: value for key, value in further.items() if key != "detail"}
        body = {**further, "uuid": uuid, "status": status}
        envelope = {**further, "detail-type": "Flash Call Result", "detail": body}
        bodies = [json.dumps(body), json.dumps(envelope), json.dumps(body, ensure_ascii=False)]
        (direct,) = read(envelope, now=NOW)
        for content in (*map(parse_body, bodies), direct.content):
            assert content == FlashCallResult(uuid, status)  # type: ignore[arg-type]
