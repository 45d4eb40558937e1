"""A parked or dead-lettered message of any shape is read, chosen and brought back in a shape that the relay reads."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_call_relay.events import parse_body, read
from flash_call_relay.models import FlashCallResult, Status
from ops.messages import DeadReason, Filter, Message
from tests.conftest import payload

LIMIT = 256 * 1024  # of a body, in bytes
SENT_MS = 1_763_800_000_123
A, B = FlashCallResult("a", "Success"), FlashCallResult("b", "Failed")

# What each service adds to its dead letters
OF_LAMBDA = {"RequestID": "1f2e", "ErrorCode": "200", "ErrorMessage": "Task timed out"}
OF_EVENTBRIDGE = {"RULE_ARN": "arn:rule", "TARGET_ARN": "arn:t", "ERROR_CODE": "NO_PERMISSIONS", "ERROR_MESSAGE": "no"}

STATUSES = st.sampled_from(["Success", "Failed"])
UUIDS = st.sampled_from("abc") | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=9)
PADDING = st.sampled_from([0, 0, 1, LIMIT - 90, LIMIT, 2 * LIMIT])


def body_of(result: FlashCallResult, padding: int = 0, *, envelope: bool = False) -> str:
    """A body that says so, with so many characters more of 1 to 3 bytes."""
    said: dict[str, Any] = {"uuid": result.uuid, "status": result.status, "more": "\u20ac" * (padding // 3)}
    return json.dumps({"detail-type": "any", "detail": said} if envelope else said, ensure_ascii=False)


RESULTS = st.builds(FlashCallResult, UUIDS, STATUSES)
BODIES = (
    st.builds(body_of, RESULTS, PADDING, envelope=st.booleans()) | st.text(max_size=20) | st.just("x" * (LIMIT + 1))
)


def batch(bodies: list[str]) -> str:
    """A batch that the function was given asynchronously, as a dead letter keeps it."""
    return json.dumps({"Records": [{"eventSource": "aws:sqs", "messageId": "m", "body": body} for body in bodies]})


def message(
    body: str, attributes: dict[str, str] | None = None, *, dead: bool = False, sent_ms: int = SENT_MS, name: str = "m"
) -> Message:
    """What is made of a message, as SQS hands it out."""
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
    """Each service leaves a message in its own shape."""

    def test_parked(self) -> None:
        """The operator would not see why a result was parked."""
        said = {"reason": "rejected", "detail": "HTTP 400 no such user", "http_status": "400", "receive_count": "3"}
        found = message(body_of(A), said)
        assert (found.reason, found.detail, found.http_status) == ("rejected", "HTTP 400 no such user", 400)
        assert (found.results, found.sent_at, found.attributes) == ([A], SENT_MS / 1000, said)

    @pytest.mark.parametrize("event", ["sqs-success", "sqs-failed", "sqs-eventbridge"])
    def test_dead_letter_of_sqs(self, event: str) -> None:
        """What the relay crashed on could not be replayed."""
        (record,) = payload(event)["Records"]
        found = message(record["body"], dead=True)
        assert (found.reason, found.detail) == (DeadReason.RECEIVES_EXHAUSTED, "")
        assert found.results == [parse_body(record["body"])]
        assert found.for_the_relay() == [record["body"]]

    @pytest.mark.parametrize(
        ("attributes", "reason", "detail"),
        [
            (OF_LAMBDA, DeadReason.FUNCTION_FAILED, "Task timed out"),
            (OF_EVENTBRIDGE, DeadReason.EVENT_UNDELIVERED, "no"),
        ],
    )
    def test_dead_letter_with_an_event(self, attributes: dict[str, str], reason: DeadReason, detail: str) -> None:
        """An event that reached no function, or that it failed on, could not be replayed."""
        body = json.dumps(payload("eventbridge"))
        found = message(body, attributes, dead=True)
        assert (found.reason, found.detail) == (reason, detail)
        assert found.results == [record.content for record in read(payload("eventbridge"), now=0)]
        assert found.for_the_relay() == [body]

    def test_dead_letter_with_a_batch(self) -> None:
        """A batch that the function was given by hand would be parked as one thing that is no result."""
        records = payload("sqs-batch-one-invalid")["Records"]
        found = message(json.dumps({"Records": records}), OF_LAMBDA, dead=True)
        assert found.for_the_relay() == [record["body"] for record in records]
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
    def test_dead_letter_with_anything_else(self, body: str) -> None:
        """One odd dead letter would end the command with a traceback, or be lost when it is replayed."""
        found = message(body, OF_LAMBDA, dead=True)
        assert found.for_the_relay() == [body]
        assert found.results == []

    @pytest.mark.parametrize("attributes", [OF_LAMBDA, OF_EVENTBRIDGE])
    def test_a_parked_message_is_not_taken_for_a_dead_letter(self, attributes: dict[str, str]) -> None:
        """A message that somebody moved between the queues by hand would be taken apart."""
        found = message(batch([body_of(A)]), attributes)
        assert (found.reason, len(found.bodies)) == ("unknown", 1)


class TestOddAttributes:
    """Anybody who may send to the queue can put there what the relay never would."""

    @pytest.mark.parametrize(
        "value", ["", "-1", "4e2", "\u00b2", "\u0664\u0660\u0664", "9" * 5000, "40", "4040", "404\n"]
    )
    def test_http_status(self, value: str) -> None:
        """One odd message would keep the operator from listing all others."""
        assert message("x", {"http_status": value}).http_status is None

    @pytest.mark.parametrize("key", ["detail", "ErrorMessage", "ERROR_MESSAGE", "reason"])
    def test_words_are_fit_for_a_terminal(self, key: str) -> None:
        """An exception's line breaks would tear the table apart, and an escape sequence could rewrite the screen."""
        found = message("x", {key: "a\nb\x1b[2J\u202e" + "x" * 5000})
        said = found.reason if key == "reason" else found.detail
        assert said.startswith("a b [2J\\u202e")
        assert said.isascii()
        assert said.isprintable()
        assert len(said) <= 256
        assert found.as_json()[0]["attributes"] == dict(found.attributes)  # which keeps all of it

    def test_binary(self) -> None:
        """A message with an attribute that is no text would end the command with a traceback."""
        received = {
            "MessageId": "m",
            "ReceiptHandle": "h",
            "Body": body_of(A),
            "Attributes": {"SentTimestamp": "1"},
            "MessageAttributes": {"reason": {"DataType": "Binary", "BinaryValue": b"\xff"}},
        }
        assert Message.of(received, dead=False).results == [A]


class TestForTheRelay:
    """What is replayed is what the relay reads."""

    @given(st.lists(BODIES, min_size=1, max_size=3), st.sampled_from([None, "Success", "Failed"]))
    def test_the_relay_reads_the_same_results(self, bodies: list[str], status: Status | None) -> None:
        """A replay would report another call or verdict, or change what is no result so that nobody can mend it."""
        found = message(batch(bodies), OF_LAMBDA, dead=True)
        replayed = found.for_the_relay(status)
        assert len(replayed) == len(bodies)
        for body, again in zip(bodies, replayed, strict=True):
            content = parse_body(body)
            if not isinstance(content, FlashCallResult):
                assert again == body
                continue
            assert parse_body(again) == FlashCallResult(content.uuid, status or content.status)
            assert len(again.encode()) <= LIMIT  # or SQS would not take it
            if status is None and len(body.encode()) <= LIMIT:
                assert again == body

    @pytest.mark.parametrize("envelope", [False, True])
    def test_the_queues_limit_is_one_of_bytes(self, *, envelope: bool) -> None:
        """A body just over the limit could not be replayed, or one just under it would be changed for nothing."""
        spare = LIMIT - len(body_of(A, envelope=envelope).encode())
        fits = body_of(A, spare // 3 * 3, envelope=envelope)
        longer = body_of(A, spare // 3 * 3 + 3, envelope=envelope)
        assert LIMIT - 3 < len(fits.encode()) <= LIMIT < len(longer.encode())
        assert message(fits).for_the_relay() == [fits]
        assert message(longer).for_the_relay() == ['{"uuid": "a", "status": "Success"}']


class TestAsJson:
    """What `--json` shows and `discard` keeps."""

    @pytest.mark.parametrize("envelope", [False, True])
    def test_it_can_be_sent_as_it_is(self, *, envelope: bool) -> None:
        """What was discarded by mistake could not be brought back."""
        body = body_of(A, envelope=envelope)
        (said,) = message(body, {"reason": "rejected", "detail": "d", "http_status": "400"}).as_json()
        assert parse_body(json.dumps(said)) == A
        assert said["body"] == body
        assert said["sent_at"] == "2025-11-22T08:26:40.123+00:00"
        assert (said["reason"], said["detail"], said["http_status"]) == ("rejected", "d", 400)

    def test_each_of_a_batch_can_be_sent(self) -> None:
        """All results but the first of an asynchronous batch would be lost by `discard` and `send`."""
        batch = json.dumps({"Records": [{"body": body_of(A)}, {"body": body_of(B)}, {"body": "nonsense"}]})
        said = message(batch, OF_LAMBDA, dead=True).as_json()
        assert [(one["uuid"], one["status"]) for one in said] == [("a", "Success"), ("b", "Failed"), (None, None)]
        assert {one["body"] for one in said} == {batch}

    def test_what_is_no_result_keeps_its_body(self) -> None:
        """The only copy of a malformed message would be gone after `discard`."""
        (said,) = json.loads(json.dumps(message("\u20ac{").as_json()))
        assert (said["uuid"], said["status"], said["body"]) == (None, None, "\u20ac{")


class TestFilter:
    """Which messages are asked for."""

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
    def test_against_a_model(  # noqa: PLR0913, PLR0917 - a filter has so many
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
        """A replay or a discard would take messages that nobody asked for, or leave some that were."""
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
        chosen = wanted.choose(messages)
        in_order = sorted((messages[number] for number in expected), key=lambda one: (one.sent_at, one.message_id))
        assert chosen == (in_order[:limit] if limit else in_order)

    def test_times_take_their_beginning_and_not_their_end(self) -> None:
        """Two replays that follow on each other would both take a message, or neither would."""
        found = message("x", sent_ms=5000)
        assert Filter(since=5.0, until=5.001).choose([found]) == [found]
        assert Filter(since=5.001).choose([found]) == Filter(until=5.0).choose([found]) == []

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
    def test_what_is_no_result_is_found_by_the_uuid_in_its_text(self, body: str, *, found: bool) -> None:
        """Support would hear that the backend never sent it, while it lies there as `invalid_event`."""
        one = message(body)
        assert Filter(uuids=("a",)).choose([one]) == [one] * found

    def test_one_message_can_be_chosen(self) -> None:
        """A message without a uuid could not be discarded by itself."""
        both = [message("x", name="first"), message("x", name="second")]
        assert Filter(message_ids=("second",)).choose(both) == both[1:]

    def test_any_result_of_a_batch_counts(self) -> None:
        """A call whose result sits in a batch could not be found."""
        found = message(batch([body_of(A), "nonsense", body_of(B)]), OF_LAMBDA, dead=True)
        for wanted in (Filter(uuids=("b",)), Filter(statuses=("Failed",)), Filter(uuids=("a",), statuses=("Success",))):
            assert wanted.choose([found]) == [found]
        assert Filter(uuids=("c",)).choose([found]) == []
