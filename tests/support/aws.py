"""AWS in memory: a queue that behaves as SQS does, and services that give fixed replies."""

import json
import random
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from botocore.config import Config
from botocore.exceptions import ClientError

from ops.stack import Stack

URL = "ParkedQueueUrl"
CALL = "01JV5V54KPYK9GB29265EQRZ4C"
LINES = (
    {"message": "result.deferred", "uuid": CALL, "status": "Success", "reason": "endpoint_error", "age_s": 84.2},
    {"message": "batch.settled", "records": 6, "delivered": 4, "duplicate": 1, "deferred": 1},
)
OUTPUTS = (
    *("FunctionName", "FunctionArn", "EventSourceMappingId", "CredentialsSecretArn"),
    *("ResultQueueUrl", "ResultQueueArn", "ParkedQueueUrl", "DeadLetterQueueUrl", "LogGroupName"),
)
REFUSED = ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "AnyCall")


def received(body: str, attributes: Mapping[str, str], sent_at: float = 1_763_800_000.123) -> dict[str, Any]:
    """Return a message with these attributes as boto3 does."""
    return {
        "MessageId": "m",
        "ReceiptHandle": "r",
        "Body": body,
        "Attributes": {"SentTimestamp": str(round(sent_at * 1000))},
        "MessageAttributes": {name: {"StringValue": text, "DataType": "String"} for name, text in attributes.items()},
    }


class Sqs:
    """A standard queue in memory, and a result queue that takes bodies.

    Attributes:
        left: whether each message on the queue is visible, by message id.
        log: the messages that it deleted, and the bodies that were sent, in order.
        undeletable: ids that it does not delete.
        refused: texts; it does not take a body that has one of them.
        premature: how often it may make a message visible too early.
        fails_at: the number of the call that fails; 0: none.
        failure: how it fails.
        fields: of messages that are not as usual, by message id.
    """

    def __init__(self, ids: Collection[str], *, seed: int = 0) -> None:
        self.left = dict.fromkeys(ids, True)
        self.log: list[tuple[str, str]] = []
        self.undeletable: Collection[str] = ()
        self.refused: Collection[str] = ()
        self.premature = self.fails_at = 0
        self.failure: BaseException = KeyboardInterrupt()
        self.fields: dict[str, dict[str, Any]] = {}
        self._newest: dict[str, str] = {}
        self._random = random.Random(seed)
        self._calls = 0

    def _step(self) -> None:
        self._calls += 1
        if self._calls == self.fails_at:
            raise self.failure

    def receive_message(self, *, QueueUrl: str, MaxNumberOfMessages: int, **_: Any) -> dict[str, Any]:  # noqa: N803
        """Answer as boto3 does, without waiting; the dead-letter queue is empty."""
        if QueueUrl != URL:
            return {}
        for one in [one for one, visible in self.left.items() if not visible]:
            if self.premature and self._random.random() < 0.5:
                self.premature -= 1
                self.left[one] = True
        visible = [one for one, visible in self.left.items() if visible]
        taken = self._random.sample(visible, min(len(visible), self._random.randint(1, MaxNumberOfMessages)))
        for one in taken:
            self.left[one] = False
            self._newest[one] = f"{one} {self._calls}"
        self._step()  # the answer is lost, and the messages are hidden
        return {"Messages": [self._message(one) for one in taken]} if taken else {}

    def _message(self, one: str) -> dict[str, Any]:
        usual = received(json.dumps({"uuid": one, "status": "Success"}), {})
        usual["MessageAttributes"] = {"of the backend": {"DataType": "Binary", "BinaryValue": b"\xff"}}
        return {**usual, **self.fields.get(one, {}), "MessageId": one, "ReceiptHandle": self._newest[one]}

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        """Answer as boto3 does; a body that has the text "silent" is neither taken nor refused."""
        assert QueueUrl == "ResultQueueUrl"
        assert len({entry["Id"] for entry in Entries}) == len(Entries) <= 10
        self._step()
        reply: dict[str, Any] = {}
        for entry in reversed(Entries):  # SQS promises no order
            if any(text in entry["MessageBody"] for text in self.refused):
                reply.setdefault("Failed", []).append({"Id": entry["Id"], "Code": "Refused", "Message": "why"})
            elif "silent" not in entry["MessageBody"]:
                self.log.append(("sent", entry["MessageBody"]))
                reply.setdefault("Successful", []).append({"Id": entry["Id"]})
        return reply

    def delete_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803
        """Answer as boto3 does; only the newest receipt is valid."""
        assert QueueUrl == URL
        assert 1 <= len(Entries) <= 10
        self._step()
        reply: dict[str, Any] = {}
        for entry in Entries:
            one = entry["ReceiptHandle"].partition(" ")[0]
            if one in self.undeletable or self._newest[one] != entry["ReceiptHandle"]:
                reply.setdefault("Failed", []).append({"Id": entry["Id"], "Code": "ReceiptHandleIsInvalid"})
            else:
                self.log.append(("deleted", one))
                self.left.pop(one)
                reply.setdefault("Successful", []).append({"Id": entry["Id"]})
        return reply

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        """Answer as boto3 does."""
        assert QueueUrl == URL
        assert len({entry["Id"] for entry in Entries}) == len(Entries) <= 10
        for entry in Entries:
            assert entry["VisibilityTimeout"] == 0
            one = entry["ReceiptHandle"].partition(" ")[0]
            if one in self.left:
                self.left[one] = True
        return {}

    def get_queue_attributes(self, **_: Any) -> dict[str, dict[str, str]]:
        """Return the number of messages as SQS does."""
        return counts(visible=len(self.left))


def counts(*, visible: int = 0, hidden: int = 0, delayed: int = 0) -> dict[str, dict[str, str]]:
    """Return the attributes of a queue as SQS does."""
    attributes = {
        "ApproximateNumberOfMessages": str(visible),
        "ApproximateNumberOfMessagesNotVisible": str(hidden),
        "ApproximateNumberOfMessagesDelayed": str(delayed),
        "MessageRetentionPeriod": "864000",
    }
    return {"Attributes": attributes}


class Aws:
    """All services of AWS in one client; a call without a reply is refused for want of a permission."""

    meta = SimpleNamespace(region_name="eu-central-1")
    exceptions = SimpleNamespace(
        ResourceInUseException=ClientError,
        ResourceConflictException=ClientError,
        ResourceNotFoundException=type("ResourceNotFoundException", (ClientError,), {}),
    )

    def __init__(self, **replies: Any) -> None:
        self.replies = replies
        self.requests: list[tuple[str, dict[str, Any]]] = []

    def asked(self, call: str) -> list[dict[str, Any]]:
        """Return the requests of a call so far."""
        return [request for name, request in self.requests if name == call]

    def __getattr__(self, name: str) -> Any:
        reply = self.replies.get(name, REFUSED)

        def answer(*_: object, **request: Any) -> Any:
            self.requests.append((name, request))
            if isinstance(reply, Exception):
                raise reply
            return reply(**request) if callable(reply) else reply

        return reply if isinstance(reply, SimpleNamespace) else answer


class FakeStack(Stack):
    """A stack whose services give these replies."""

    def __init__(self, parameters: dict[str, str] | None = None, **replies: Any) -> None:
        super().__init__("a-stack")
        self.aws = Aws(**replies)
        outputs = [{"OutputKey": name, "OutputValue": name} for name in OUTPUTS]
        given = [{"ParameterKey": name, "ParameterValue": value} for name, value in (parameters or {}).items()]
        stack = {"StackName": "a-stack", "StackStatus": "CREATE_COMPLETE", "Outputs": outputs, "Parameters": given}
        self.aws.replies["describe_stacks"] = {"Stacks": [stack]}

    def client(self, _service: str, _config: Config | None = None) -> Any:
        """Return the client of every service."""
        return self.aws


class QueueStack(FakeStack):
    """A stack with that queue, by its ARN."""

    label = "a-stack (eu-central-1)"

    def __init__(self, sqs: Sqs) -> None:
        super().__init__(**{name: getattr(sqs, name) for name in dir(Sqs) if "_message" in name or "queue" in name})
        self.name = "arn:aws:cloudformation:eu-central-1:111122223333:stack/a-stack/1f2e3d4c"


def line(at: float, message: str, **fields: Any) -> dict[str, Any]:
    """Return a line of the function's log, at a time in seconds since the epoch."""
    return {"timestamp": datetime.fromtimestamp(at, UTC).isoformat(), "message": message, **fields}


def log(*lines: Mapping[str, Any]) -> dict[str, Any]:
    """Return the replies of CloudWatch Logs Insights with these lines."""
    rows = [[{"field": "@message", "value": json.dumps(line)}] for line in lines]
    return {"start_query": {"queryId": "query"}, "get_query_results": {"status": "Complete", "results": rows}}


def busy_stack(**replies: Any) -> FakeStack:
    """Return a stack with a deferred result in its log, and a message on each queue, which it does not release."""
    message = received(json.dumps({"uuid": CALL, "status": "Success"}), {"reason": "rejected"})
    usual: dict[str, Any] = {
        **log(*({"timestamp": "2026-11-24T12:00:00Z", **line} for line in LINES)),
        "get_queue_attributes": counts(visible=1),
        "receive_message": {"Messages": [message]},
        "get_event_source_mapping": {"State": "Enabled"},
    }
    return FakeStack(**{**usual, **replies})
