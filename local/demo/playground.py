"""`make up` deploys the relay on this machine and leaves it running; `make down` ends it.

All its files are in `.local`, those with the pids of its processes too.
"""

import argparse
import contextlib
import fcntl
import json
import secrets
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import urllib3

from local import ROOT, TOOLS
from local.command import Parser, run_command, stopwatch, whole
from local.emulator.deployment import Deployment, sam_build, sam_deploy
from local.emulator.emulator import Emulator
from local.endpoint.standin import WEBHOOK_PATH, start_process
from local.processes import LocalError, end_session, signals_held

LOCAL = ROOT / ".local"
ENV = LOCAL / "env"
COMMANDS = LOCAL / "commands"
STACK_NAME = "flash-call-relay-local"
PARAMETERS: dict[str, str | int] = {"RetryBaseSeconds": 2, "UnknownCallGraceSeconds": 60}
FIRST_CALL = "01JV5V54KPYK9GB29265EQRZ2P"
FORGET_AWS = r"for name in $(env | sed -n 's/^\(AWS_[A-Z0-9_]*\)=.*/\1/p'); do unset $name; done"


def main() -> int:
    """Parse the options and run the command."""
    parser = Parser(prog="python -m local.demo.playground", description="The relay, to try out.")
    commands = parser.add_subparsers(dest="command", required=True)
    started = commands.add_parser("up", help="deploy the relay on this machine and leave it running")
    for option, port in (("--emulator-port", 4566), ("--endpoint-port", 8787)):
        started.add_argument(option, type=whole(1, 65_535), default=port, help="on 127.0.0.1 (default %(default)s)")
    commands.add_parser("down", help="end the processes of `up`")
    options = parser.parse_args()
    return run_command(down if options.command == "down" else lambda: up(options))


def up(options: argparse.Namespace) -> int:
    """Start and deploy everything, unless it runs already; show the commands to try."""
    if COMMANDS.exists() and len(live_pids()) == 2:
        print("It is up already; `make down` ends it.")
        show_commands()
        return 0
    clear()
    require_free(options.emulator_port, "the emulator", "EMULATOR_PORT")
    require_free(options.endpoint_port, "the endpoint", "ENDPOINT_PORT")
    say = stopwatch()
    with contextlib.ExitStack() as undo:
        undo.callback(clear)
        LOCAL.mkdir()
        with registered("emulator") as register:
            emulator = Emulator(LOCAL / "emulator", options.emulator_port, say, (register.fileno(),))
            register.write(str(undo.enter_context(emulator).pid))
        origin = f"http://127.0.0.1:{options.endpoint_port}"
        say(f"starting the stand-in endpoint on {origin}")
        credentials = {"api_key": secrets.token_urlsafe(24), "user_id": secrets.token_urlsafe(12)}
        with registered("endpoint") as register:
            places: dict[str, Any] = {"pass_fds": [register.fileno()]}
            register.write(str(start_process(undo, LOCAL, options.endpoint_port, credentials, **places)))
        urllib3.request("POST", f"{origin}/_standin/calls", json={"uuid": FIRST_CALL}, retries=False)
        url = origin + WEBHOOK_PATH
        deployment = sam_deploy(emulator, STACK_NAME, sam_build(emulator), {"WebhookUrl": url, **PARAMETERS})
        say("filling the secret with made-up credentials")
        deployment.fill_secret(**credentials)
        write_env(deployment, url)
        COMMANDS.write_text(commands(origin))
        undo.pop_all()
    say("it is up; `make down` ends it")
    show_commands()
    return 0


def down() -> int:
    """End the processes of `up` and remove its files."""
    print("It is down now." if clear() else "Nothing was up.")
    return 0


def clear() -> bool:
    """End the processes of `up` and remove `.local`; return whether any ran."""
    with signals_held():
        pids = live_pids()
        for pid in pids:
            end_session(pid)
        shutil.rmtree(LOCAL, ignore_errors=True)
    return bool(pids)


def require_free(port: int, user: str, variable: str) -> None:
    """Raise a `LocalError` that says what to do if a port is in use."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        raise LocalError(
            f"Port {port}, meant for {user}, is in use. If `make up` in another directory uses it, run `make down` "
            f"there. Otherwise choose another port with {variable}=..."
        ) from None


@contextlib.contextmanager
def registered(name: str) -> Iterator[TextIO]:
    """Yield a locked file for the pid of a process that inherits the file, and so keeps the lock while it runs."""
    with (LOCAL / f"{name}.pid").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def live_pids() -> list[int]:
    """Return the pids of the processes of `up` that still run: another process may have their pids one day."""
    pids = []
    for path in LOCAL.glob("*.pid"):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pids.append(int(file.read()))
    return pids


# ---- the commands to try ----


def write_env(deployment: Deployment, url: str) -> None:
    """Write the file that points a shell, its AWS CLI and its SAM CLI to the emulator, and to nothing else."""
    outputs = deployment.outputs
    values = {
        "FLASH_CALL_RELAY_STACK": STACK_NAME,
        **deployment.emulator.environment,
        "NODE_EXTRA_CA_CERTS": str(deployment.emulator.ca_bundle),
        "AWS_PAGER": "",
        "RESULT_QUEUE_URL": outputs["ResultQueueUrl"],
        "PARKED_QUEUE_URL": outputs["ParkedQueueUrl"],
        "DEAD_LETTER_QUEUE_URL": outputs["DeadLetterQueueUrl"],
        "LOG_GROUP": outputs["LogGroupName"],
        "FUNCTION_NAME": outputs["FunctionName"],
        "ENDPOINT_URL": url,
    }
    lines = [FORGET_AWS, *(f"export {name}={shlex.quote(value)}" for name, value in values.items())]
    lines.append(f'export PATH={shlex.quote(str(TOOLS / "sam" / "bin"))}:"$PATH"')
    ENV.write_text("\n".join(lines) + "\n")


def commands(origin: str) -> str:
    """Return the commands to try, with an explanation of each.

    The commands for SQS give the endpoint's URL, because version 1 of the AWS CLI ignores `AWS_ENDPOINT_URL` for SQS.
    """
    sqs = 'aws sqs --endpoint-url "$AWS_ENDPOINT_URL"'
    other = FIRST_CALL[:-1] + "Q"
    event = {
        "Source": "flash-call.verification",
        "DetailType": "Flash Call Result",
        "Detail": json.dumps({"uuid": other, "status": "Failed"}),
    }
    result = json.dumps({"uuid": FIRST_CALL, "status": "Success"})
    return f"""
First, in your shell, from the repository's root:
    . {ENV.relative_to(ROOT)}

Send a result through the queue (this call exists at the endpoint):
    {sqs} send-message --queue-url "$RESULT_QUEUE_URL" --message-body '{result}'

Send one through the event bus (the endpoint does not know this call; the relay parks it after a minute):
    aws events put-events --entries '{json.dumps([event])}'

Make that call known to the endpoint, so that the relay delivers its result:
    curl -s -X POST {origin}/_standin/calls -d '{{"uuid": "{other}"}}'

List the requests that the endpoint got:
    curl -s {origin}/_standin/requests

Have the endpoint answer 500 to everything for 30 seconds:
    curl -s -X POST {origin}/_standin/override -d '{{"status": 500, "seconds": 30}}'

Read the parked results, each with its reason:
    {sqs} receive-message --queue-url "$PARKED_QUEUE_URL" --max-number-of-messages 10 --message-attribute-names All

Check the relay, list the parked results, follow one result (docs/operating.md has more):
    .venv/dev/bin/flash-call-relay doctor --probe
    .venv/dev/bin/flash-call-relay parked list
    .venv/dev/bin/flash-call-relay story {FIRST_CALL}

Read the log:
    aws logs filter-log-events --log-group-name "$LOG_GROUP" --query 'events[].[message]' --output text

Deploy your changes (the emulator supports neither the concurrency cap nor the monitoring):
    sam build && sam deploy --stack-name {STACK_NAME} --resolve-s3 \\
        --capabilities CAPABILITY_IAM CAPABILITY_AUTO_EXPAND \\
        --parameter-overrides MaximumConcurrency=0 Monitoring=false WebhookUrl="$ENDPOINT_URL"
"""


def show_commands() -> None:
    """Print the commands to try."""
    print(COMMANDS.read_text())
    if shutil.which("aws") is None:
        print("There is no aws on PATH: install the AWS CLI for the commands that begin with it.")


if __name__ == "__main__":
    sys.exit(main())
