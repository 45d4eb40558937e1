"""Faults between the function and AWS, and of the function itself, by a seeded schedule.

The schedule says what befalls the n-th call of an operation and the n-th invocation. So a seed repeats the plan of a
run; which results a fault meets is up to the run's concurrency.
"""

import json
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from local.emulator.runtime import Environment, Invocation, Runtime
from local.emulator.stack import LocalStack
from local.soak.promises import Call, Pair

SLOW_S = 0.8  # longer than the relay's client waits for DynamoDB


class Fault(StrEnum):
    """What the proxy can do to a call."""

    ERROR = "500"
    THROTTLED = "throttled"
    SLOW = "slow"
    LOST = "reply lost"
    PARTLY = "partly failed"


FAULTS: Mapping[str, Sequence[Fault]] = {
    "GetSecretValue": (Fault.ERROR, Fault.THROTTLED),
    "BatchGetItem": (Fault.ERROR, Fault.THROTTLED, Fault.SLOW, Fault.PARTLY),
    "BatchExecuteStatement": (Fault.ERROR, Fault.THROTTLED, Fault.SLOW, Fault.LOST, Fault.PARTLY),
    "ChangeMessageVisibilityBatch": (Fault.ERROR, Fault.THROTTLED, Fault.LOST, Fault.PARTLY),
    "SendMessageBatch": (Fault.ERROR, Fault.THROTTLED, Fault.LOST, Fault.PARTLY),
}
ERRORS = {
    Fault.ERROR: (500, "InternalServerError"),
    Fault.THROTTLED: (400, "ThrottlingException"),
}


def fault_schedule(seed: str, operation: str, rate: float) -> Iterator[Fault | None]:
    """Yield what befalls each call of an operation: each fault once, early; then some at random.

    A fault lasts for some calls in a row, since the relay's clients try each call twice.
    """
    rng = random.Random(f"{seed} {operation}")  # noqa: S311 - it is to be repeated
    kinds = list(FAULTS[operation])
    rng.shuffle(kinds)
    yield None
    for kind in kinds:
        yield from (kind, kind, None)
    while True:
        if rng.random() < rate:
            yield from [rng.choice(kinds)] * rng.randint(1, 3)
        else:
            yield None


class FaultyAws:
    """A proxy for the function's AWS calls, in front of the emulator and with its certificate.

    Args:
        stack: the emulator.
        seed: of the schedule.
        rate: how many of the calls meet a fault, 0 to 1, once each fault was met; None: none ever.
        strikes: is told of each call before it is made.
        credentials: the endpoint's, which must not be in any call.
    """

    def __init__(
        self, stack: LocalStack, seed: str, rate: float | None, strikes: "Strikes", credentials: set[str]
    ) -> None:
        self.calls: list[Call] = []
        self.identities: Mapping[str, int] = {}  # access key ids → environments
        self.strikes, self.credentials = strikes, credentials
        self._stack = stack
        self._schedules = {} if rate is None else {name: fault_schedule(seed, name, rate) for name in FAULTS}
        self._lock = threading.Lock()
        self._http = urllib3.PoolManager(ca_certs=str(stack.ca_bundle), retries=False, maxsize=50, timeout=30)

    def __enter__(self) -> Self:
        """Listen on a loopback port."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._stack.state / "cert.pem", self._stack.state / "key.pem")
        self._server = _Server(("127.0.0.1", 0), partial(_Proxied, self, context))
        threading.Thread(target=self._server.serve_forever, name="faulty-aws", daemon=True).start()
        self.url = f"https://localhost:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        """End it; calls under way fail."""
        self._server.shutdown()
        self._server.server_close()
        self._http.clear()

    @property
    def hits(self) -> Counter[str]:
        """How many calls met which fault."""
        return Counter(f"{call.operation}: {call.fault}" for call in list(self.calls) if call.fault)

    def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Mapping[str, str], bytes] | None:
        """Forward a call, or do to it what is due; None: there is no reply."""
        began = time.time()
        environment = self._environment(headers)
        operation = headers.get("X-Amz-Target", "").rpartition(".")[2]
        with self._lock:
            fault = next(self._schedules[operation]) if operation in self._schedules else None
        self.strikes.on_call(environment, operation)
        asked = json.loads(body or b"{}")
        reply: tuple[int, Mapping[str, str], bytes]
        if fault in ERRORS:
            status, code = ERRORS[fault]
            reply = status, {}, json.dumps({"__type": code, "message": "injected"}).encode()
        elif fault is Fault.PARTLY:
            reply = self._partly(operation, path, headers, asked)
        else:
            if fault is Fault.SLOW:
                time.sleep(SLOW_S)
            reply = self._forward(path, headers, body)
        said = json.loads(reply[2] or b"{}") if reply[0] == 200 else {}
        call = Call(
            *(began, time.time(), environment, operation, str(fault or "")),
            **_about(operation, asked, said),
            leaks=any(secret.encode() in body for secret in self.credentials),
        )
        with self._lock:
            self.calls.append(call)
        return None if fault is Fault.LOST else reply

    def _environment(self, headers: Mapping[str, str]) -> int:
        key = headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
        return self.identities.get(key, -1)

    def _forward(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        passed = {
            name: value for name, value in headers.items() if name.lower() not in ("connection", "content-length")
        }
        response = self._http.request("POST", f"{self._stack.url}{path}", body=body, headers=passed, redirect=False)
        names = ("Content-Type", "x-amzn-RequestId", "x-amz-crc32")
        return response.status, {n: response.headers[n] for n in names if n in response.headers}, response.data

    def _signed(self, headers: Mapping[str, str], path: str, body: bytes) -> Mapping[str, str]:
        """Return headers for another body, signed anew; as the account, since the role's key is the function's."""
        *_, region, service, _ = headers["Authorization"].partition("Credential=")[2].partition(",")[0].split("/")
        kept = {name: headers[name] for name in ("Content-Type", "X-Amz-Target") if name in headers}
        request = AWSRequest("POST", f"{self._stack.url}{path}", kept, body)
        SigV4Auth(Credentials("test", "test"), service, region).add_auth(request)
        return dict(request.headers)

    def _partly(
        self, operation: str, path: str, headers: Mapping[str, str], asked: dict[str, Any]
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Forward every other entry, and say of the rest what AWS says of entries that failed."""
        holder, name = asked, {"BatchGetItem": "Keys", "BatchExecuteStatement": "Statements"}.get(operation, "Entries")
        if operation == "BatchGetItem":
            (holder,) = asked["RequestItems"].values()
        taken, failed = holder[name][1::2], holder[name][::2]
        said: dict[str, Any] = {"Responses": {}} if operation == "BatchGetItem" else {}
        status, passed = 200, {"Content-Type": "application/x-amz-json-1.0"}
        if taken:
            holder[name] = taken
            part = json.dumps(asked).encode()
            status, _, body = self._forward(path, self._signed(headers, path, part), part)
            said = json.loads(body)
            holder[name] = [*taken, *failed]  # what was asked for, faults or no
        if status != 200:
            raise RuntimeError(f"a part of {operation} was refused: {said}")
        if operation == "BatchGetItem":
            (table,) = asked["RequestItems"]
            said["UnprocessedKeys"] = {table: {**holder, "Keys": failed}}
        elif operation == "BatchExecuteStatement":
            error = {"Error": {"Code": "ThrottlingError", "Message": "injected"}}
            answers = iter(said.get("Responses", ()))
            both = range(len(taken) + len(failed))
            said["Responses"] = [error if number % 2 == 0 else next(answers) for number in both]
        else:
            refused = [{"Id": entry["Id"], "Code": "InternalError", "SenderFault": False} for entry in failed]
            said["Failed"] = [*said.get("Failed", ()), *refused]
        return status, passed, json.dumps(said).encode()


def _about(operation: str, asked: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """What a call is about, and what came of it."""
    if operation == "BatchGetItem":
        (keys,) = asked["RequestItems"].values()
        items = [item for found in said.get("Responses", {}).values() for item in found]
        return {
            "asked": frozenset(key["uuid"]["S"] for key in keys["Keys"]),
            "found": frozenset(item["uuid"]["S"] for item in items),
        }
    if operation == "BatchExecuteStatement":
        pairs: list[Pair] = [(s["Parameters"][0]["S"], s["Parameters"][1]["S"]) for s in asked["Statements"]]
        answers = said.get("Responses", ())
        written = frozenset(pair for pair, answer in zip(pairs, answers, strict=False) if "Error" not in answer)
        return {"asked": frozenset(uuid for uuid, _ in pairs), "written": written}
    if operation == "ChangeMessageVisibilityBatch":
        return {"delays": tuple(int(entry["VisibilityTimeout"]) for entry in asked["Entries"])}
    if operation == "SendMessageBatch":
        attributes = [entry.get("MessageAttributes", {}) for entry in asked["Entries"]]
        sources = (a["source_message_id"]["StringValue"] for a in attributes if "source_message_id" in a)
        return {"asked": frozenset(sources)}
    return {}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Say nothing: a killed function leaves its connections as they are."""


class _Proxied(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, aws: FaultyAws, context: ssl.SSLContext, *args: Any) -> None:
        self._aws, self._context = aws, context
        super().__init__(*args)

    def setup(self) -> None:
        """Greet in the connection's own thread."""
        self.request = self._context.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()
        self.request.close()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        reply = self._aws.answer(self.path, dict(self.headers.items()), body)
        if reply is None:
            self.close_connection = True
            return
        status, headers, content = reply
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing for each request."""


# ---- the function itself ----


class Strike(StrEnum):
    """What can befall an invocation."""

    KILLED_AT_READ = "killed before the POSTs"
    KILLED_AT_WRITE = "killed between the POSTs and the ledger"
    KILLED_AT_HIDE = "killed before hiding"
    KILLED_AT_PARK = "killed before parking"
    TIMED_OUT = "timed out"
    TWICE = "delivered twice, one after the other"
    SIDE_BY_SIDE = "delivered twice, side by side"


_AT = {
    Strike.KILLED_AT_READ: "BatchGetItem",
    Strike.KILLED_AT_WRITE: "BatchExecuteStatement",
    Strike.KILLED_AT_HIDE: "ChangeMessageVisibilityBatch",
    Strike.KILLED_AT_PARK: "SendMessageBatch",
    Strike.TIMED_OUT: "BatchExecuteStatement",
}


def strike_schedule(seed: str, rate: float) -> Iterator[Strike | None]:
    """Yield what befalls each invocation: each strike once, early; then some at random, time-outs seldom."""
    rng = random.Random(f"{seed} strikes")  # noqa: S311 - it is to be repeated
    early = list(Strike)
    rng.shuffle(early)
    for strike in early:
        yield from (None, None, strike)
    while True:
        seldom = rng.random() < 0.05
        kinds = [Strike.TIMED_OUT] if seldom else [strike for strike in Strike if strike is not Strike.TIMED_OUT]
        yield rng.choice(kinds) if rng.random() < rate else None


class Strikes:
    """Kills, freezes and repeats invocations.

    A strike that found no occasion (nothing was parked, say) waits for an invocation that gives one.

    Attributes:
        struck: the invocations that were killed or frozen.
        copies: the invocations that were a second delivery.
        poison: texts; an invocation whose event holds one of them is always killed.
    """

    def __init__(self, seed: str, rate: float | None) -> None:
        self.struck: set[tuple[int, int]] = set()
        self.copies: set[tuple[int, int]] = set()
        self.poison: set[bytes] = set()
        self.hits: Counter[Strike | str] = Counter()
        self._schedule = None if rate is None else strike_schedule(seed, rate)
        self._due: Counter[Strike] = Counter()
        self._running: dict[int, tuple[Environment, int, bool]] = {}  # by environment: its invocation, is it poison?
        self._lock = threading.Lock()

    def on_event(self, runtime: Runtime, event: bytes) -> Invocation:
        """Hand an event to the function: once, or twice."""
        with self._lock:
            strike = next(self._schedule) if self._schedule else None
        if strike not in (Strike.TWICE, Strike.SIDE_BY_SIDE):
            if strike:
                self._due[strike] += 1
            return self._run(runtime, event)
        self.hits[strike] += 1
        copy = threading.Thread(target=lambda: self._copy(runtime, event))
        if strike is Strike.SIDE_BY_SIDE:
            copy.start()
        invocation = self._run(runtime, event)
        if strike is Strike.TWICE:
            copy.start()
        copy.join()
        return invocation

    def _copy(self, runtime: Runtime, event: bytes) -> None:
        invocation = self._run(runtime, event)
        self.copies.add((invocation.environment, invocation.number))

    def _run(self, runtime: Runtime, event: bytes) -> Invocation:
        with runtime.environment() as environment:
            poisoned = any(text in event for text in self.poison)
            self._running[environment.number] = environment, environment.invocations, poisoned
            try:
                return runtime.run(environment, event)
            finally:
                del self._running[environment.number]

    def on_call(self, number: int, operation: str) -> None:
        """Strike the environment that is about to make this call, if that is due."""
        if (running := self._running.get(number)) is None:
            return
        environment, invocation, poisoned = running
        with self._lock:
            if (number, invocation) in self.struck:
                return
            due = next((strike for strike in list(self._due) if self._due[strike] and _AT[strike] == operation), None)
            if poisoned:
                self.hits["poison"] += 1
            elif due:
                self._due[due] -= 1
                self.hits[due] += 1
            else:
                return
            self.struck.add((number, invocation))
        if due is Strike.TIMED_OUT and not poisoned:
            environment.freeze()
        else:
            environment.kill()


EVERY_FAULT: Sequence[str] = [
    *(f"{operation}: {fault}" for operation, faults in FAULTS.items() for fault in faults),
    *(str(strike) for strike in Strike),
]
