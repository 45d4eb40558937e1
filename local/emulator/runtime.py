"""AWS's own Lambda runtime without a container: execution environments for the function of a deployed stack.

Each environment is AWS's Runtime Interface Emulator (in the SAM CLI's wheel) with AWS's Python client `awslambdaric`.
The function can import only the package that `sam build` made, so a missing dependency fails here as it would on
Lambda. A time-out kills the function, a crash costs a cold start, and state survives between invocations.

    with Runtime(deployment, template.parent / "RelayFunction", state / "runtime") as runtime:
        deployment.send([...])      # the emulator sends the function's batches to these environments
"""

import contextlib
import http
import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import urllib3

from local.emulator.deployment import Deployment
from local.emulator.emulator import REGION
from local.endpoint.behaviour import Headers, Reply, Step
from local.endpoint.server import Server
from local.processes import held_port, listens, server, tool, wait_until

PROXY_URL = "MINISTACK_LAMBDA_PROXY_URL"  # the emulator POSTs a function's events to the URL in this variable
GRACE_S = 60  # after the function's time-out, for its cold start and for the runtime emulator to kill it


@dataclass(frozen=True, slots=True)
class Invocation:
    """One invocation of the function, and its result.

    Attributes:
        environment: the number of the environment that ran it.
        number: counts the invocations of that environment, from 0.
        records: the event's SQS records; none if it was another event.
        began: in seconds since the epoch.
        ended: in seconds since the epoch.
        reply: the function's return value; None if it failed.
        error: why it failed; empty if it did not.
    """

    environment: int
    number: int
    records: tuple[Mapping[str, Any], ...]
    began: float
    ended: float
    reply: Mapping[str, Any] | None
    error: str

    @property
    def kept(self) -> frozenset[str]:
        """The ids of the messages that SQS keeps after this invocation."""
        if self.reply is None:
            return frozenset(record["messageId"] for record in self.records)
        return frozenset(failure["itemIdentifier"] for failure in self.reply.get("batchItemFailures", ()))


class Environment:
    """One execution environment. It takes one invocation at a time.

    Attributes:
        number: counts the environments, from 0.
        log: the file it writes to.
        invocations: the number of invocations that have begun.
        end: ends its processes.
        lost: it has not replied: it is at work, it has crashed, or it was killed here or at its time-out.
    """

    def __init__(self, number: int, log: Path, package: Path, variables: Mapping[str, str]) -> None:
        """Start the runtime emulator, which starts the function of this package with the first event."""
        self.number, self.log = number, log
        self.invocations, self.lost = 0, False
        ending = contextlib.ExitStack()
        self.end = ending.close
        self._limit_s = int(variables["AWS_LAMBDA_FUNCTION_TIMEOUT"]) + GRACE_S
        port, api_port = (ending.enter_context(held_port()) for _ in range(2))
        self._url = f"http://127.0.0.1:{port}/2015-03-31/functions/function/invocations"
        architecture = "arm64" if os.uname().machine == "aarch64" else "x86_64"
        emulator = tool(f"sam/lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-{architecture}")
        client = tool("runtime/lib/python3*/site-packages/awslambdaric").parent
        command = [
            *(str(emulator), "--log-level", "info"),
            *("--runtime-interface-emulator-address", f"127.0.0.1:{port}"),
            *("--runtime-api-address", f"127.0.0.1:{api_port}"),
            # Without site-packages: the function imports from PYTHONPATH and the standard library only.
            *(str(tool("runtime/bin/python")), "-S", "-m", "awslambdaric", variables["_HANDLER"]),
        ]
        environment = {**variables, "PYTHONPATH": f"{package}:{client}", "PYTHONDONTWRITEBYTECODE": "1"}
        how: dict[str, Any] = {"env": environment, "cwd": package}
        running = server("runtime emulator", command, self.log, lambda: listens(port), **how)
        self._emulator = ending.enter_context(running)

    def invoke(self, event: bytes) -> Invocation:
        """Run the function with an event."""
        began, self.lost = time.time(), True
        self.invocations += 1
        once: dict[str, Any] = {"headers": {"Connection": "close"}, "retries": False, "timeout": self._limit_s}
        response = urllib3.request("POST", self._url, body=event, **once)
        said: object = None
        with contextlib.suppress(ValueError):  # such as "Task timed out after 60.00 seconds"
            said = json.loads(response.data)
        self.lost = response.status != http.HTTPStatus.OK or not isinstance(said, dict)
        # The runtime emulator gives the function's exception with status 200, too.
        reply = said if isinstance(said, dict) and not self.lost and "errorType" not in said else None
        error = "" if reply is not None else response.data.decode(errors="replace").strip()
        records = tuple(json.loads(event).get("Records", ()))
        return Invocation(*self.invocation, records, began, time.time(), reply, error)

    @property
    def invocation(self) -> tuple[int, int]:
        """The number of the environment, and that of its last invocation."""
        return self.number, self.invocations - 1

    @property
    def init_ms(self) -> float:
        """How long the last init phase took, in milliseconds, by the runtime emulator."""
        return float(re.findall(r"INIT REPORT\(durationMs: ([0-9.]+)\)", self.log.read_text(errors="replace"))[-1])

    def signal(self, number: signal.Signals) -> None:
        """Send the function a signal: SIGKILL is a crash, after SIGSTOP Lambda kills it at its time-out."""
        if self._emulator.poll() is not None:  # another process may have its pid
            return
        for thread in Path(f"/proc/{self._emulator.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in (thread / "children").read_text().split():
                    os.kill(int(child), number)


class Runtime:
    """The execution environments of one deployed function; it runs the function while the context is entered.

    Args:
        deployment: the stack.
        package: the function's package, made by `sam build`.
        logs: a directory for the environments' logs.
        concurrency: the most invocations at a time.
        on_event: handles an event in place of `invoke`.
        variables: environment variables that the function has instead of, or beside, the deployed ones and Lambda's.
    """

    def __init__(
        self,
        deployment: Deployment,
        package: Path,
        logs: Path,
        *,
        concurrency: int = 2,
        on_event: "Callable[[Runtime, bytes], Invocation] | None" = None,
        **variables: str,
    ) -> None:
        self.invocations: list[Invocation] = []
        self.environments: list[Environment] = []
        self.identities: dict[str, Environment] = {}  # by the access key id of its role session
        self._deployment, self._package, self._logs = deployment, package, logs
        self._concurrency, self._on_event, self._base = concurrency, on_event or Runtime.invoke, variables
        self._free: list[Environment] = []
        self._under_way, self._stopped = 0, False
        self._first = 0  # `restart` retired the environments before this one
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Have the emulator send the function's events here."""
        self._logs.mkdir(parents=True, exist_ok=True)
        self._function = self._deployment.client("lambda")
        self._name = self._deployment.outputs["FunctionName"]
        configuration = self._function.get_function_configuration(FunctionName=self._name)
        self._before: dict[str, str] = configuration["Environment"]["Variables"]
        self._base = self._variables(configuration) | self._base
        self._let_the_account_assume_the_role()
        self._server = Server(self._respond).__enter__()
        self.resume()
        self._configure({**self._before, PROXY_URL: f"http://127.0.0.1:{self._server.port}/"})
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the function's configuration, and end the environments.

        Raises:
            RuntimeError: an execution environment has failed, and not the function in it.
        """
        try:
            self.stop()
            self._configure(self._before)
            self._function.delete_function_concurrency(FunctionName=self._name)
        finally:
            for environment in self.environments:
                environment.end()
            self._server.__exit__()

    def _configure(self, variables: dict[str, str]) -> None:
        self._function.update_function_configuration(FunctionName=self._name, Environment={"Variables": variables})

    def _variables(self, configuration: Mapping[str, Any]) -> dict[str, str]:
        """Return the environment variables of the function: its configuration's and Lambda's."""
        logging = configuration.get("LoggingConfig", {})
        return {
            **self._before,
            "PATH": os.defpath,
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "_HANDLER": configuration["Handler"],
            "LAMBDA_TASK_ROOT": str(self._package),
            "AWS_LAMBDA_FUNCTION_NAME": self._name,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(configuration["MemorySize"]),
            "AWS_LAMBDA_FUNCTION_TIMEOUT": str(configuration["Timeout"]),
            "AWS_LAMBDA_LOG_FORMAT": logging.get("LogFormat", "Text"),
            "AWS_LAMBDA_LOG_LEVEL": logging.get("ApplicationLogLevel", "INFO"),
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self._deployment.emulator.url,
            "AWS_CA_BUNDLE": str(self._deployment.emulator.ca_bundle),
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def _let_the_account_assume_the_role(self) -> None:
        # On AWS, Lambda assumes the role. Its permissions stay the template's, and the emulator enforces them.
        iam = self._deployment.client("iam")
        self._role = iam.get_role(RoleName=self._deployment.role)["Role"]["Arn"]
        account = {"AWS": f"arn:aws:iam::{self._role.split(':')[4]}:root"}
        trust = [{"Effect": "Allow", "Principal": account, "Action": "sts:AssumeRole"}]
        policy = json.dumps({"Version": "2012-10-17", "Statement": trust})
        iam.update_assume_role_policy(RoleName=self._deployment.role, PolicyDocument=policy)

    # ---- invocations ----

    def _respond(self, _method: str, _path: str, _headers: Headers, event: bytes) -> Iterator[Step]:
        yield self._answer(event).wire()

    def _answer(self, event: bytes) -> Reply:
        """Handle an event with `on_event`; refuse one that the emulator sent before it learned of `stop`."""
        with self._lock:
            if self._stopped:
                return Reply(503, b"stopped")
            self._under_way += 1
        try:
            invocation = self._on_event(self, event)
        finally:
            with self._lock:
                self._under_way -= 1
        if invocation.reply is None:
            return Reply(502, invocation.error.encode())
        return Reply(200, json.dumps(invocation.reply).encode())

    def invoke(self, event: bytes) -> Invocation:
        """Run the function with an event, in a warm environment if one is free, else in a new one; record it."""
        with self._lock:
            environment = self._free.pop() if self._free else self._start()
        invocation = environment.invoke(event)
        with self._lock:
            self.invocations.append(invocation)
            # The runtime emulator restarts a lost function, but fails an invocation during the restart.
            retired = environment.lost or environment.number < self._first
            if not retired:
                self._free.append(environment)
        if retired:
            environment.end()
        return invocation

    def restart(self, **variables: str) -> None:
        """Replace all environments, as a deployment does, with these environment variables changed."""
        with self._lock:
            self._base |= variables
            self._first, retired, self._free = len(self.environments), self._free, []
        for environment in retired:
            environment.end()

    def stop(self) -> None:
        """Have the emulator begin no more invocations, and wait until the running ones have ended."""
        self._deployment.limit_environments(0)
        with self._lock:
            self._stopped = True
        limit_s = int(self._base["AWS_LAMBDA_FUNCTION_TIMEOUT"]) + GRACE_S
        wait_until(lambda: self._under_way == 0, limit_s)

    def resume(self) -> None:
        """Have the emulator begin invocations again."""
        self._stopped = False
        self._deployment.limit_environments(self._concurrency)

    def _start(self) -> Environment:
        number = len(self.environments)
        session = self._deployment.client("sts").assume_role(
            RoleArn=self._role, RoleSessionName=f"environment-{number}"
        )["Credentials"]
        variables = {
            **self._base,
            "AWS_LAMBDA_LOG_STREAM_NAME": f"environment-{number}",
            "AWS_ACCESS_KEY_ID": session["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": session["SecretAccessKey"],
            "AWS_SESSION_TOKEN": session["SessionToken"],
        }
        environment = Environment(number, self._logs / f"environment-{number}.log", self._package, variables)
        self.environments.append(environment)
        self.identities[session["AccessKeyId"]] = environment
        return environment

    # ---- logs ----

    def raw_log(self) -> list[str]:
        """Return all lines that the function and its runtime wrote, one environment after the other."""
        return [line for one in [*self.environments] for line in one.log.read_text(errors="replace").splitlines()]

    def log(self) -> list[dict[str, Any]]:
        """Return the function's JSON log lines in the order of their timestamps.

        Each line has the `environment` that wrote it, and the number of the `invocation` there, or None.
        """
        lines = [line for one in [*self.environments] for line in _read_log(one.number, one.log)]
        return sorted(lines, key=lambda line: str(line.get("timestamp")))


def _read_log(environment: int, log: Path) -> Iterator[dict[str, Any]]:
    texts = log.read_text(errors="replace").splitlines()
    starts = [text.split()[2] for text in texts if text.startswith("START RequestId: ")]
    numbers = {request_id: number for number, request_id in enumerate(starts)}
    for text in texts:
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict):
                number = numbers.get(str(line.get("function_request_id")))
                yield {**line, "environment": environment, "invocation": number}
