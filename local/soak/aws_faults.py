"""A proxy between the function and AWS, which injects faults into the calls by a schedule.

The schedule, made from a seed, decides the fault of the n-th call of each operation. It does not decide which results
meet the fault, because the relay works in parallel.
"""

import json
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Self

import urllib3
from botocore import xform_name

from local.emulator.emulator import Emulator
from local.endpoint.behaviour import Act, Headers, Reply, Step, json_reply
from local.endpoint.server import Server
from local.soak.facts import AwsCall, Pair
from local.soak.plan import fault_schedule

SLOW_S = 0.8  # longer than the time-out of the relay's DynamoDB client


class AwsFault(StrEnum):
    """A fault of an AWS call."""

    ERROR = "500"
    THROTTLED = "throttled"
    SLOW = "slow"
    LOST = "reply lost"
    PARTLY = "partly failed"


AWS_FAULTS: Mapping[str, Sequence[AwsFault]] = {
    "GetSecretValue": (AwsFault.ERROR, AwsFault.THROTTLED),
    "BatchGetItem": (AwsFault.ERROR, AwsFault.THROTTLED, AwsFault.SLOW, AwsFault.PARTLY),
    "BatchExecuteStatement": (AwsFault.ERROR, AwsFault.THROTTLED, AwsFault.SLOW, AwsFault.LOST, AwsFault.PARTLY),
    "ChangeMessageVisibilityBatch": (AwsFault.ERROR, AwsFault.THROTTLED, AwsFault.LOST, AwsFault.PARTLY),
    "SendMessageBatch": (AwsFault.ERROR, AwsFault.THROTTLED, AwsFault.LOST, AwsFault.PARTLY),
    "PutEvents": (AwsFault.ERROR, AwsFault.THROTTLED, AwsFault.SLOW, AwsFault.LOST, AwsFault.PARTLY),
}
ERRORS = {
    AwsFault.ERROR: (500, "InternalServerError"),
    AwsFault.THROTTLED: (400, "ThrottlingException"),
}


class FaultyAws:
    """A proxy for the function's AWS calls. It forwards them to the emulator and uses the emulator's certificate.

    Args:
        emulator: where the calls go.
        seed: repeats the schedule.
        rate: as in `fault_schedule`; None for no faults.
        on_call: takes the environment and the operation of each call before it is made.
        credentials: the endpoint's; the proxy looks for them in each call.
    """

    def __init__(
        self,
        emulator: Emulator,
        seed: str,
        rate: float | None,
        on_call: Callable[[int, str], None],
        credentials: set[str],
    ) -> None:
        self.calls: list[AwsCall] = []
        self.identities: Mapping[str, int] = {}  # access key id → environment
        self._emulator, self._on_call, self._credentials = emulator, on_call, credentials
        schedules = {name: fault_schedule(f"{seed} {name}", kinds, rate or 0, 3) for name, kinds in AWS_FAULTS.items()}
        self._schedules = {} if rate is None else schedules
        self._lock = threading.Lock()
        self._http = urllib3.PoolManager(ca_certs=str(emulator.ca_bundle), retries=False, maxsize=50, timeout=300)

    def __enter__(self) -> Self:
        """Listen on a loopback port."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._emulator.state / "cert.pem", self._emulator.state / "key.pem")
        self._server = Server(self._respond, context).__enter__()
        self.url = f"https://localhost:{self._server.port}"
        return self

    def __exit__(self, *_: object) -> None:
        """Stop. Calls that have begun fail."""
        self._server.__exit__()
        self._http.clear()

    @property
    def fault_counts(self) -> Counter[str]:
        """How often each fault of each operation occurred."""
        return Counter(f"{call.operation}: {call.fault}" for call in list(self.calls) if call.fault)

    def _respond(self, _method: str, path: str, sent: Headers, body: bytes) -> Iterator[Step]:
        """Answer a call, with the fault that is due."""
        began, headers = time.time(), dict(sent)
        key, _, _, service, *_ = headers.get("Authorization", "Credential=////").partition("Credential=")[2].split("/")
        environment = self.identities.get(key, -1)
        operation = headers.get("X-Amz-Target", "").rpartition(".")[2]
        with self._lock:
            fault = next(self._schedules[operation]) if operation in self._schedules else None
        self._on_call(environment, operation)
        asked = json.loads(body or b"{}")
        if fault in ERRORS:
            status, code = ERRORS[fault]
            reply = json_reply(status, {"__type": code, "message": "injected"})
        elif fault is AwsFault.PARTLY:
            reply = self._partly(operation, service, asked)
        else:
            if fault is AwsFault.SLOW:
                time.sleep(SLOW_S)
            reply = self._forward(path, headers, body)
        said = json.loads(reply.body or b"{}") if reply.status == 200 else {}
        call = AwsCall(
            *(began, time.time(), environment, operation, str(fault or "")),
            **_about(operation, asked, said),
            leaks=any(secret.encode() in body for secret in self._credentials),
        )
        with self._lock:
            self.calls.append(call)
        yield Act.CLOSE if fault is AwsFault.LOST else reply.wire()

    def _forward(self, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        passed = {
            name: value for name, value in headers.items() if name.lower() not in ("connection", "content-length")
        }
        response = self._http.request("POST", f"{self._emulator.url}{path}", body=body, headers=passed, redirect=False)
        names = ("Content-Type", "x-amzn-RequestId", "x-amz-crc32")
        kept = tuple((name, response.headers[name]) for name in names if name in response.headers)
        return Reply(response.status, response.data, kept)

    def _partly(self, operation: str, service: str, asked: dict[str, Any]) -> Reply:
        """Carry out every second entry, as the account, and reply for the others as AWS does for failed entries."""
        holder, name = asked, {"BatchGetItem": "Keys", "BatchExecuteStatement": "Statements"}.get(operation, "Entries")
        if operation == "BatchGetItem":
            ((table, holder),) = asked["RequestItems"].items()
        entries = holder[name]
        failed = entries[::2]
        said: dict[str, Any] = {"Responses": {}} if operation == "BatchGetItem" else {}
        if len(entries) > 1:
            holder[name] = entries[1::2]
            said = getattr(self._emulator.client(service), xform_name(operation))(**asked)
            del said["ResponseMetadata"]
            holder[name] = entries  # the caller records the whole request
        if operation == "BatchGetItem":
            said["UnprocessedKeys"] = {table: {**holder, "Keys": failed}}
        elif operation == "BatchExecuteStatement":
            error = {"Error": {"Code": "ThrottlingError", "Message": "injected"}}
            said["Responses"] = _merged(entries, error, said.get("Responses", ()))
        elif operation == "PutEvents":
            refused = {"ErrorCode": "ThrottlingException", "ErrorMessage": "injected"}
            said |= {"Entries": _merged(entries, refused, said.get("Entries", ())), "FailedEntryCount": len(failed)}
        else:
            failures = [{"Id": entry["Id"], "Code": "InternalError", "SenderFault": False} for entry in failed]
            said["Failed"] = [*said.get("Failed", ()), *failures]
        return Reply(200, json.dumps(said).encode(), (("Content-Type", "application/x-amz-json-1.0"),))


def _merged(entries: list[Any], error: object, answers: Sequence[object]) -> list[object]:
    """Return the answers to all entries: `error` for every second one, beginning with the first."""
    taken = iter(answers)
    return [error if number % 2 == 0 else next(taken) for number in range(len(entries))]


def _about(operation: str, asked: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `AwsCall` that depend on the operation."""
    if operation == "BatchGetItem":
        (keys,) = asked["RequestItems"].values()
        items = [item for found in said.get("Responses", {}).values() for item in found]
        return {
            "asked": frozenset(key["uuid"]["S"] for key in keys["Keys"]),
            "found": frozenset(item["uuid"]["S"] for item in items),
        }
    if operation == "BatchExecuteStatement":
        status = re.compile("'status': '([^']*)'")
        pairs: list[Pair] = [
            (one["Parameters"][0]["S"], status.findall(one["Statement"])[0]) for one in asked["Statements"]
        ]
        answers = said.get("Responses", ())
        written = frozenset(pair for pair, answer in zip(pairs, answers, strict=False) if "Error" not in answer)
        return {"asked": frozenset(uuid for uuid, _ in pairs), "written": written}
    if operation == "PutEvents":
        answers = said.get("Entries", ())
        taken = [e for e, answer in zip(asked["Entries"], answers, strict=False) if "ErrorCode" not in answer]
        return {"published": tuple({"detail-type": e["DetailType"], **json.loads(e["Detail"])} for e in taken)}
    if operation == "SendMessageBatch":
        attributes = [entry.get("MessageAttributes", {}) for entry in asked["Entries"]]
        sources = (a["source_message_id"]["StringValue"] for a in attributes if "source_message_id" in a)
        return {"asked": frozenset(sources)}
    return {}
