"""A parked or dead-lettered message of any shape is read, selected and replayed."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_call_relay.events import parse_body, read
from flash_call_relay.models import FlashCallResult, Status
from ops.messages import DeadReason, Filter, Message
from tests.support.payloads import payload

LIMIT = 256 * 1024  # of a body, in bytes
SENT_MS = 1_763_800_000_123
A, B = FlashCallResult("a", "Success"), FlashCallResult("b", "Failed")

# The attributes that each service adds to its dead letters
OF_LAMBDA = {"RequestID": "1f2e", "ErrorCode": "200", "ErrorMessage": "Task timed out"}
OF_EVENTBRIDGE = {"RULE_ARN": "arn:rule", "TARGET_ARN": "arn:t", "ERROR_CODE": "NO_PERMISSIONS", "ERROR_MESSAGE": "no"}

STATUSES = st.sampled_from(["Success", "Failed"])
UUIDS = st.sampled_from("abc") | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=9)
PADDING = st.sampled_from([0, 0, 1, LIMIT - 90, LIMIT, 2 * LIMIT])


def body_of(result: FlashCallResult, padding: int = 0, *, envelope: bool = False) -> str:
    """Return the body of a result, longer by a number of bytes."""
    said: dict[str, Any] = {"uuid": result.uuid, "status": result.status, "more": "\u20ac" * (padding // 3)}
    return json.dumps({"detail-type": "any", "detail": said} if envelope else said, ensure_ascii=False)


RESULTS = st.builds(FlashCallResult, UUIDS, STATUSES)
BODIES = (
    st.builds(body_of, RESULTS, PADDING, envelope=st.booleans()) | st.text(max_size=20) | st.just("x" * (LIMIT + 1))
)


def batch(bodies: list[str]) -> str:
    """Return the dead letter of an SQS batch that invoked the function asynchronously."""
    return json.dumps({"Records": [{"eventSource": "aws:sqs", "messageId": "m", "body": body} for body in bodies]})


def message(
    body: str, attributes: dict[str, str] | None = None, *, dead: bool = False, sent_ms: int = SENT_MS, name: str = "m"
) -> Message:
    """Return a message as read from SQS."""
    received: dict[str, Any] = {
        "MessageId": name,
        "ReceiptHandle": "handle",
        "Body": body,
        "Attributes": {"SentTimestamp": str(sent_ms)},
    }
    if attributes:
        received["MessageAttributes"] = {
            key: {"DataType": "String", "StringValue": value} for key, value in attributes.items()
        }
    return Message.of(received, dead=dead)


MESSAGES = st.builds(
    lambda body, attributes, sent_ms: message(body, attributes, sent_ms=sent_ms, name=f"{body}{attributes}{sent_ms}"),
    st.builds(body_of, RESULTS) | st.just("nonsense"),
    st.fixed_dictionaries(
        {"reason": st.sampled_from(["rejected", "unknown_call"])},
        optional={"http_status": st.sampled_from(["400", "404", "?"])},
    ),
    st.integers(0, 5).map(lambda s: s * 1000),
)


class TestShapes:
    """Each service has its own shape of message."""

    def test_a_parked_message_has_its_reason_and_result(self) -> None:
        """An operator would not see why a result was parked."""
        said = {"reason": "rejected", "detail": "HTTP 400 no such user", "http_status": "400", "receive_count": "3"}
        found = message(body_of(A), said)
        assert (found.reason, found.detail, found.http_status) == ("rejected", "HTTP 400 no such user", 400)
        assert (found.results, found.sent_at, found.attributes) == ([A], SENT_MS / 1000, said)

    @pytest.mark.parametrize("event", ["sqs-success", "sqs-failed", "sqs-eventbridge"])
    def test_a_dead_letter_of_sqs_has_its_result(self, event: str) -> None:
        """An operator could not replay a result on which the relay crashed."""
        (record,) = payload(event)["Records"]
        found = message(record["body"], dead=True)
        assert (found.reason, found.detail) == (DeadReason.RECEIVES_EXHAUSTED, "")
        assert found.results == [parse_body(record["body"])]
        assert found.replay_bodies() == [record["body"]]

    @pytest.mark.parametrize(
        ("attributes", "reason", "detail"),
        [
            (OF_LAMBDA, DeadReason.FUNCTION_FAILED, "Task timed out"),
            (OF_EVENTBRIDGE, DeadReason.EVENT_UNDELIVERED, "no"),
        ],
    )
    def test_a_dead_letter_with_an_event_has_its_result(
        self, attributes: dict[str, str], reason: DeadReason, detail: str
    ) -> None:
        """An operator could not replay an event that never reached the function or made it fail."""
        body = json.dumps(payload("eventbridge"))
        found = message(body, attributes, dead=True)
        assert (found.reason, found.detail) == (reason, detail)
        assert found.results == [record.content for record in read(payload("eventbridge"), now=0)]
        assert found.replay_bodies() == [body]

    def test_a_dead_letter_with_a_batch_has_each_result(self) -> None:
        """The relay would park a replayed batch as one invalid event."""
        records = payload("sqs-batch-one-invalid")["Records"]
        found = message(json.dumps({"Records": records}), OF_LAMBDA, dead=True)
        assert found.replay_bodies() == [record["body"] for record in records]
        assert len(found.results) == len(records) - 1

    @pytest.mark.parametrize(
        "body",
        [
            "",
            "{",
            "[]",
            "null",
            "1" * 5000,
            "[" * 100_000,
            '{"Records": []}',
            '{"Records": {}}',
            '{"Records": null}',
            '{"Records": "ab"}',
            '{"Records": [1]}',
            '{"Records": ["body"]}',
            '{"Records": [{"body": 1}]}',
            '{"Records": [{"body": ["a"]}]}',
            '{"Records": [{"body": null}]}',
            '{"Records": [{"body": "a"}, {"eventSource": "aws:s3"}]}',
        ],
    )
    def test_any_other_dead_letter_keeps_its_body(self, body: str) -> None:
        """One odd dead letter would end the command with a traceback, or a replay would lose it."""
        found = message(body, OF_LAMBDA, dead=True)
        assert found.replay_bodies() == [body]
        assert found.results == []

    @pytest.mark.parametrize("attributes", [OF_LAMBDA, OF_EVENTBRIDGE])
    def test_a_parked_message_with_attributes_of_a_dead_letter_stays_whole(self, attributes: dict[str, str]) -> None:
        """A message that somebody moved between the queues by hand would be split."""
        found = message(batch([body_of(A)]), attributes)
        assert (found.reason, len(found.bodies)) == ("unknown", 1)


class TestOddAttributes:
    """Anybody with permission to send to the queue can choose the attributes."""

    @pytest.mark.parametrize(
        "value", ["", "-1", "4e2", "\u00b2", "\u0664\u0660\u0664", "9" * 5000, "40", "4040", "404\n"]
    )
    def test_an_odd_http_status_is_ignored(self, value: str) -> None:
        """One odd message would prevent the listing of all others."""
        assert message("x", {"http_status": value}).http_status is None

    @pytest.mark.parametrize("key", ["detail", "ErrorMessage", "ERROR_MESSAGE", "reason"])
    def test_texts_are_safe_to_print_on_a_terminal(self, key: str) -> None:
        """A line break would break the table, and an escape sequence could rewrite the screen."""
        found = message("x", {key: "a\nb\x1b[2J\u202e" + "x" * 5000})
        said = found.reason if key == "reason" else found.detail
        assert said.startswith("a b [2J\\u202e")
        assert said.isascii()
        assert said.isprintable()
        assert len(said) <= 256
        assert found.as_json()[0]["attributes"] == dict(found.attributes)  # in full

    def test_a_binary_attribute_is_ignored(self) -> None:
        """A message with a binary attribute would end the command with a traceback."""
        received = {
            "MessageId": "m",
            "ReceiptHandle": "h",
            "Body": body_of(A),
            "Attributes": {"SentTimestamp": "1"},
            "MessageAttributes": {"reason": {"DataType": "Binary", "BinaryValue": b"\xff"}},
        }
        assert Message.of(received, dead=False).results == [A]


class TestReplayBodies:
    """The bodies that a replay sends."""

    @given(st.lists(BODIES, min_size=1, max_size=3), st.sampled_from([None, "Success", "Failed"]))
    def test_a_replayed_body_has_the_same_result(self, bodies: list[str], status: Status | None) -> None:
        """A replay would report another call or status, or change an invalid body before anybody can fix it."""
        found = message(batch(bodies), OF_LAMBDA, dead=True)
        replayed = found.replay_bodies(status)
        assert len(replayed) == len(bodies)
        for body, again in zip(bodies, replayed, strict=True):
            content = parse_body(body)
            if not isinstance(content, FlashCallResult):
                assert again == body
                continue
            assert parse_body(again) == FlashCallResult(content.uuid, status or content.status)
            assert len(again.encode()) <= LIMIT  # the limit of SQS
            if status is None and len(body.encode()) <= LIMIT:
                assert again == body

    @pytest.mark.parametrize("envelope", [False, True])
    def test_a_body_over_the_queues_limit_is_shortened(self, *, envelope: bool) -> None:
        """SQS would refuse a replayed body just over its limit, or a body just under it would be changed."""
        spare = LIMIT - len(body_of(A, envelope=envelope).encode())
        fits = body_of(A, spare // 3 * 3, envelope=envelope)
        longer = body_of(A, spare // 3 * 3 + 3, envelope=envelope)
        assert LIMIT - 3 < len(fits.encode()) <= LIMIT < len(longer.encode())
        assert message(fits).replay_bodies() == [fits]
        assert message(longer).replay_bodies() == ['{"uuid": "a", "status": "Success"}']


class TestAsJson:
    """The JSON that `--json` prints and `discard` saves."""

    @pytest.mark.parametrize("envelope", [False, True])
    def test_the_json_can_be_sent_again(self, *, envelope: bool) -> None:
        """An operator could not restore messages discarded by mistake."""
        body = body_of(A, envelope=envelope)
        (said,) = message(body, {"reason": "rejected", "detail": "d", "http_status": "400"}).as_json()
        assert parse_body(json.dumps(said)) == A
        assert said["body"] == body
        assert said["sent_at"] == "2025-11-22T08:26:40.123+00:00"
        assert (said["reason"], said["detail"], said["http_status"]) == ("rejected", "d", 400)

    def test_each_result_of_a_batch_has_its_json(self) -> None:
        """`discard` and `send` would lose all results of a batch but the first."""
        batch = json.dumps({"Records": [{"body": body_of(A)}, {"body": body_of(B)}, {"body": "nonsense"}]})
        said = message(batch, OF_LAMBDA, dead=True).as_json()
        assert [(one["uuid"], one["status"]) for one in said] == [("a", "Success"), ("b", "Failed"), (None, None)]
        assert {one["body"] for one in said} == {batch}

    def test_an_invalid_message_keeps_its_body(self) -> None:
        """`discard` would destroy the only copy of an invalid message."""
        (said,) = json.loads(json.dumps(message("\u20ac{").as_json()))
        assert (said["uuid"], said["status"], said["body"]) == (None, None, "\u20ac{")


class TestFilter:
    """The messages that a filter selects."""

    @given(
        st.lists(MESSAGES, max_size=12),
        st.sets(st.sampled_from(["rejected", "unknown_call"])),
        st.sets(STATUSES),
        st.sets(st.sampled_from([400, 404])),
        st.sets(st.sampled_from("ab")),
        st.none() | st.integers(0, 6),
        st.none() | st.integers(0, 6),
        st.integers(0, 4),
    )
    def test_a_filter_selects_the_messages_that_meet_all_conditions(  # noqa: PLR0913, PLR0917 - a filter has many fields
        self,
        messages: list[Message],
        reasons: set[str],
        statuses: set[str],
        http_statuses: set[int],
        uuids: set[str],
        since: int | None,
        until: int | None,
        limit: int,
    ) -> None:
        """A replay or a discard would take unselected messages, or leave selected ones."""
        expected = set(range(len(messages)))
        for number, one in enumerate(messages):
            content = parse_body(one.body)
            uuid, status = (content.uuid, content.status) if isinstance(content, FlashCallResult) else (None, None)
            refused = [
                reasons and one.attributes["reason"] not in reasons,
                statuses and status not in statuses,
                http_statuses and one.attributes.get("http_status") not in set(map(str, http_statuses)),
                uuids and uuid not in uuids,
                since is not None and one.sent_at < since,
                until is not None and one.sent_at >= until,
            ]
            if any(refused):
                expected.discard(number)
        sets = (tuple(reasons), tuple(statuses), tuple(http_statuses), tuple(uuids))
        wanted = Filter(*sets, since=since, until=until, limit=limit)
        chosen = wanted.select(messages)
        in_order = sorted((messages[number] for number in expected), key=lambda one: (one.sent_at, one.message_id))
        assert chosen == (in_order[:limit] if limit else in_order)

    def test_since_is_included_and_until_is_not(self) -> None:
        """Two replays of adjacent times would both take a message, or both would leave it."""
        found = message("x", sent_ms=5000)
        assert Filter(since=5.0, until=5.001).select([found]) == [found]
        assert Filter(since=5.001).select([found]) == Filter(until=5.0).select([found]) == []

    @pytest.mark.parametrize(
        ("body", "found"),
        [
            ('{"uuid": "a", "state": "Success"}', True),
            ('{"Message": "{\\"uuid\\": \\"a\\"}"}', True),
            ('{"uuid": "abc", "state": "Success"}', False),
            ("a", False),
            ('{"uuid": "b", "status": "Success", "note": "a"}', False),
        ],
    )
    def test_an_invalid_message_is_found_by_the_uuid_in_its_text(self, body: str, *, found: bool) -> None:
        """An operator would believe that the backend never sent a result that is parked as invalid."""
        one = message(body)
        assert Filter(uuids=("a",)).select([one]) == [one] * found

    def test_a_message_id_selects_one_message(self) -> None:
        """An operator could not discard one message without a uuid."""
        both = [message("x", name="first"), message("x", name="second")]
        assert Filter(message_ids=("second",)).select(both) == both[1:]

    def test_any_result_of_a_batch_matches(self) -> None:
        """An operator could not find a call whose result is inside a batch."""
        found = message(batch([body_of(A), "nonsense", body_of(B)]), OF_LAMBDA, dead=True)
        for wanted in (Filter(uuids=("b",)), Filter(statuses=("Failed",)), Filter(uuids=("a",), statuses=("Success",))):
            assert wanted.select([found]) == [found]
        assert Filter(uuids=("c",)).select([found]) == []
