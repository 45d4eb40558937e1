"""AWS's own Lambda runtime without a container: execution environments for the function of a deployed stack.

Each environment is AWS's Runtime Interface Emulator (the SAM CLI's wheel carries it) with AWS's Python client
`awslambdaric`. It sees the package that `sam build` made and nothing else, so what the package lacks is missing here as
it would be on Lambda. A time-out kills the function, a crash costs a cold start, and state lives between invocations.

    with Runtime(deployment, build.parent / "RelayFunction", state / "runtime") as runtime:
        deployment.send([...])      # the emulator hands the function's batches to these environments
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from local.emulator.stack import REGION, TOOLS, Deployment, StackError, free_port, start_session, wait_until

INVOCATIONS = "/2015-03-31/functions/function/invocations"
PROXY_URL = "MINISTACK_LAMBDA_PROXY_URL"  # the emulator hands a function's events to the URL in this variable
START_LIMIT_S = 20
GRACE_S = 15  # beyond the function's time-out, for its cold start and for the emulator that kills it


def runtime_emulator() -> Path:
    """Return AWS's Runtime Interface Emulator for this machine.

    Raises:
        StackError: the set-up is missing.
    """
    name = {"aarch64": "aws-lambda-rie-arm64"}.get(os.uname().machine, "aws-lambda-rie-x86_64")
    for found in (TOOLS / "sam" / "lib").glob(f"python3*/site-packages/samcli/local/rapid/{name}"):
        return found
    raise StackError("The SAM CLI with AWS's runtime interface emulator is missing: run `make setup` first.")


def runtime_client() -> Path:
    """Return the directory that holds `awslambdaric`.

    Raises:
        StackError: the set-up is missing.
    """
    for found in (TOOLS / "runtime" / "lib").glob("python3*/site-packages/awslambdaric"):
        return found.parent
    raise StackError("awslambdaric is missing in .venv/runtime: run `make setup` first.")


@dataclass(frozen=True, slots=True)
class Invocation:
    """An event that was handed to the function, and what came of it.

    Attributes:
        environment: which one ran it, from 0.
        number: the how manieth invocation of that environment it was, from 0.
        records: the SQS records of the event; none if it was another event.
        began: in seconds since the epoch.
        ended: likewise.
        reply: what the function returned; None if it failed.
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
        """The ids of the messages that stay on the queue after this invocation."""
        if self.reply is None:
            return frozenset(record["messageId"] for record in self.records)
        return frozenset(failure["itemIdentifier"] for failure in self.reply.get("batchItemFailures", ()))


class Environment:
    """One execution environment. It takes one invocation at a time.

    Attributes:
        number: from 0.
        invocations: how many it has taken so far, but for one that is under way.
        log: where it writes.
        lost: whether the function has crashed or was killed, here or by Lambda's clock.
    """

    def __init__(self, number: int, package: Path, variables: Mapping[str, str], log: Path) -> None:
        self.number, self.log = number, log
        self.invocations, self.lost = 0, False
        self._port = free_port()
        self._limit_s = int(variables["AWS_LAMBDA_FUNCTION_TIMEOUT"]) + GRACE_S
        self._ending = contextlib.ExitStack()
        # Without site-packages: only what PYTHONPATH names, and the standard library.
        client = [str(TOOLS / "runtime" / "bin" / "python"), "-S", "-m", "awslambdaric"]
        command = [
            *(str(runtime_emulator()), "--log-level", "error"),
            *("--runtime-interface-emulator-address", f"127.0.0.1:{self._port}"),
            *("--runtime-api-address", f"127.0.0.1:{free_port()}"),
            *(*client, variables["_HANDLER"]),
        ]
        environment = {**variables, "PYTHONPATH": f"{package}:{runtime_client()}", "PYTHONDONTWRITEBYTECODE": "1"}
        output = self._ending.enter_context(log.open("ab"))
        process = start_session(self._ending, command, env=environment, cwd=package, stdout=output)
        self._emulator = process.pid
        if not wait_until(self._listens, START_LIMIT_S, every_s=0.01):
            self.end()
            raise StackError(f"The runtime emulator did not start:\n{log.read_text(errors='replace')[-2000:]}")

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
            return True
        return False

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._limit_s)

    def invoke(self, event: bytes) -> Invocation:
        """Run the function with an event."""
        began, self.lost = time.time(), True  # until it has replied
        connection = self._connection()
        try:
            connection.request("POST", INVOCATIONS, event)
            response = connection.getresponse()
            status, body = response.status, response.read()
        finally:
            connection.close()
            self.invocations += 1
        reply, error = _outcome(status, body)
        self.lost = status != http.HTTPStatus.OK or not body.startswith(b"{")
        records = json.loads(event).get("Records", ())
        return Invocation(self.number, self.invocations - 1, tuple(records), began, time.time(), reply, error)

    def kill(self) -> None:
        """SIGKILL the function, as a crash or a lost machine does."""
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the function's clock but not Lambda's, which kills it when its time is over."""
        self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        for thread in Path(f"/proc/{self._emulator}/task").iterdir():
            with contextlib.suppress(OSError):
                for child in (thread / "children").read_text().split():
                    os.kill(int(child), number)

    def end(self) -> None:
        """End it and all that it started."""
        self._ending.close()


def _outcome(status: int, body: bytes) -> tuple[Mapping[str, Any] | None, str]:
    """Return what the function replied, or why it failed: the emulator says either with status 200."""
    try:
        reply = json.loads(body)
    except ValueError:
        return None, body.decode(errors="replace").strip()  # Task timed out after ...
    if status == http.HTTPStatus.OK and isinstance(reply, dict) and not {"errorType", "errorMessage"} <= reply.keys():
        return reply, ""
    return None, f"{reply.get('errorType')}: {reply.get('errorMessage')}" if isinstance(reply, dict) else str(reply)


class Runtime:
    """The execution environments of one deployed function, as many as there are invocations side by side.

    Args:
        deployment: the stack.
        package: what `sam build` made of the function.
        logs: a directory for what the environments write, a file each.
        concurrency: invocations side by side, at most.
        timeout_s: the function's time-out; by default the deployed one.
        aws_url: what the function takes for AWS; by default the emulator.
        on_event: takes an event and returns what the emulator is told of it; by default `invoke` does.
    """

    def __init__(  # noqa: PLR0913
        self,
        deployment: Deployment,
        package: Path,
        logs: Path,
        *,
        concurrency: int = 2,
        timeout_s: int | None = None,
        aws_url: str | None = None,
        on_event: "Callable[[Runtime, bytes], Invocation] | None" = None,
    ) -> None:
        self.invocations: list[Invocation] = []
        self.identities: dict[str, int] = {}  # access key ids of the role's sessions → environments
        self._deployment, self._package, self._logs = deployment, package, logs
        self._concurrency, self._timeout_s, self._aws_url = concurrency, timeout_s, aws_url
        self._on_event = on_event or Runtime.invoke
        self._free: list[Environment] = []
        self._all: list[Environment] = []
        self._under_way = 0
        self._first = 0  # those before it are retired
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Take the function's invocations over from the emulator."""
        self._logs.mkdir(parents=True, exist_ok=True)
        self._function = self._deployment.stack.client("lambda")
        self._name = self._deployment.outputs["FunctionName"]
        configuration = self._function.get_function_configuration(FunctionName=self._name)
        self._before: dict[str, str] = configuration["Environment"]["Variables"]
        self._base = self._variables(configuration)
        self._let_the_account_assume_the_role()
        self._server = _Server(("127.0.0.1", 0), partial(_Handler, self))
        threading.Thread(target=self._server.serve_forever, name="runtime", daemon=True).start()
        self._function.put_function_concurrency(FunctionName=self._name, ReservedConcurrentExecutions=self._concurrency)
        self._configure({**self._before, PROXY_URL: f"http://127.0.0.1:{self._server.server_address[1]}/"})
        return self

    def __exit__(self, *_: object) -> None:
        """Give the function back, and end the environments."""
        try:
            self.stop()
            self._configure(self._before)
            self._function.delete_function_concurrency(FunctionName=self._name)
        finally:
            for environment in self._all:
                environment.end()
            self._server.shutdown()
            self._server.server_close()

    def _configure(self, variables: Mapping[str, str]) -> None:
        self._function.update_function_configuration(
            FunctionName=self._name, Environment={"Variables": dict(variables)}
        )

    def _variables(self, configuration: Mapping[str, Any]) -> dict[str, str]:
        """What Lambda sets, and what the function's configuration does."""
        logging = configuration.get("LoggingConfig", {})
        return {
            **self._before,
            "PATH": os.defpath,
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "_HANDLER": configuration["Handler"],
            "LAMBDA_TASK_ROOT": str(self._package),
            "AWS_LAMBDA_FUNCTION_HANDLER": configuration["Handler"],
            "AWS_LAMBDA_FUNCTION_NAME": self._name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(configuration["MemorySize"]),
            "AWS_LAMBDA_FUNCTION_TIMEOUT": str(self._timeout_s or configuration["Timeout"]),
            "AWS_LAMBDA_LOG_FORMAT": logging.get("LogFormat", "Text"),
            "AWS_LAMBDA_LOG_LEVEL": logging.get("ApplicationLogLevel", "INFO"),
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self._aws_url or self._deployment.stack.url,
            "AWS_CA_BUNDLE": str(self._deployment.stack.ca_bundle),
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def _let_the_account_assume_the_role(self) -> None:
        # On AWS, Lambda does. What the role may do stays as the template has it, and the emulator enforces it.
        iam = self._deployment.stack.client("iam")
        self._role = iam.get_role(RoleName=self._deployment.role)["Role"]["Arn"]
        account = {"AWS": f"arn:aws:iam::{self._role.split(':')[4]}:root"}
        trust = [{"Effect": "Allow", "Principal": account, "Action": "sts:AssumeRole"}]
        iam.update_assume_role_policy(
            RoleName=self._deployment.role, PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": trust})
        )

    # ---- invocations ----

    def handle(self, event: bytes) -> Invocation:
        """Do with an event what `on_event` does."""
        with self._lock:
            self._under_way += 1
        try:
            return self._on_event(self, event)
        finally:
            with self._lock:
                self._under_way -= 1

    def invoke(self, event: bytes) -> Invocation:
        """Run the function with an event, in an environment that is free."""
        with self.environment() as environment:
            return self.run(environment, event)

    def run(self, environment: Environment, event: bytes) -> Invocation:
        """Run the function with an event in this environment, and note it."""
        invocation = environment.invoke(event)
        with self._lock:
            self.invocations.append(invocation)
        return invocation

    @contextlib.contextmanager
    def environment(self) -> Iterator[Environment]:
        """Yield an environment that nobody else uses meanwhile: a warm one if there is one."""
        with self._lock:
            environment = self._free.pop() if self._free else self._start()
        try:
            yield environment
        finally:
            with self._lock:
                # The runtime emulator starts a lost function anew, but may fail an invocation that comes meanwhile.
                retired = environment.lost or environment.number < self._first
                if not retired:
                    self._free.append(environment)
            if retired:
                environment.end()

    def restart(self, **variables: str) -> None:
        """Go on in new environments, as after a deployment, with these environment variables changed."""
        with self._lock:
            self._base |= variables
            self._first, retired, self._free = len(self._all), self._free, []
        for environment in retired:
            environment.end()

    def stop(self) -> None:
        """Have the emulator begin no more invocations, and wait for those under way."""
        self._function.put_function_concurrency(FunctionName=self._name, ReservedConcurrentExecutions=0)
        limit_s = int(self._base["AWS_LAMBDA_FUNCTION_TIMEOUT"]) + GRACE_S
        wait_until(lambda: self._under_way == 0, limit_s)

    def _start(self) -> Environment:
        number = len(self._all)
        session = self._deployment.stack.client("sts").assume_role(
            RoleArn=self._role, RoleSessionName=f"environment-{number}"
        )["Credentials"]
        self.identities[session["AccessKeyId"]] = number
        variables = {
            **self._base,
            "AWS_LAMBDA_LOG_STREAM_NAME": f"environment-{number}",
            "AWS_ACCESS_KEY_ID": session["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": session["SecretAccessKey"],
            "AWS_SESSION_TOKEN": session["SessionToken"],
        }
        environment = Environment(number, self._package, variables, self._logs / f"environment-{number}.log")
        self._all.append(environment)
        return environment

    # ---- what the function wrote ----

    def raw_log(self) -> list[str]:
        """Return all that the environments and the function in them wrote, one environment after the other."""
        return [line for log in self._log_files() for line in log.read_text(errors="replace").splitlines()]

    def log(self) -> list[dict[str, Any]]:
        """Return the function's JSON lines in the order of their times.

        Each carries the `environment` and the `invocation` (its number there) that wrote it, if it was one of them.
        """
        lines = [line for number, log in enumerate(self._log_files()) for line in _read_log(number, log)]
        return sorted(lines, key=lambda line: str(line.get("timestamp")))

    def _log_files(self) -> list[Path]:
        with self._lock:
            return [environment.log for environment in self._all]


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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    """What the emulator talks to instead of running the function itself."""

    disable_nagle_algorithm = True

    def __init__(self, runtime: Runtime, *args: Any) -> None:
        self._runtime = runtime
        super().__init__(*args)

    def do_POST(self) -> None:
        event = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            invocation = self._runtime.handle(event)
            status = 200 if invocation.reply is not None else 502
            body = json.dumps(invocation.reply) if invocation.reply is not None else invocation.error
        except (OSError, http.client.HTTPException, StackError) as error:  # the environment itself is gone
            print(f"runtime: {error!r}", file=sys.stderr)
            status, body = 502, repr(error)
        with contextlib.suppress(OSError):  # the emulator has not waited
            self.send_response(status)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing for each request."""
