"""`make up` runs the relay on this machine until Ctrl-C, and shows each request that the endpoint gets."""

import contextlib
import json
import select
import shlex
import sys
from collections.abc import Callable

from local import ROOT, TOOLS
from local.command import exits, stopwatch
from local.demo import running
from local.emulator.deployment import Deployment
from local.endpoint.behaviour import error
from local.endpoint.standin import StandIn

ENV = ROOT / ".local" / "env"
STACK_NAME = "flash-call-relay-local"
PARAMETERS: dict[str, str | int] = {"RetryBaseSeconds": 2, "UnknownCallGraceSeconds": 60}
CALL = "01JV5V54KPYK9GB29265EQRZ2P"
OUTAGE_S = 30
FORGET_AWS = r"for name in $(env | sed -n 's/^\(AWS_[A-Z0-9_]*\)=.*/\1/p'); do unset $name; done"


@exits
def play() -> int:
    """Deploy everything, show the commands to try, and run until Ctrl-C; return the exit code."""
    say = stopwatch()
    with running(STACK_NAME, PARAMETERS, say) as (deployment, endpoint):
        endpoint.issue(CALL)
        try:
            write_env(deployment, endpoint.url)
            show_commands()
            with contextlib.suppress(KeyboardInterrupt):
                watch(endpoint, say)
        finally:
            ENV.unlink(missing_ok=True)
    print("It is down now.")
    return 0


def watch(endpoint: StandIn, say: Callable[[str], None]) -> None:
    """Show each request to the endpoint, which fails for a while after each line from the keyboard."""
    shown, keyboards = 0, [sys.stdin]
    while True:
        if select.select(keyboards, [], [], 0.2)[0]:
            if not sys.stdin.readline():  # there is no keyboard
                keyboards = []
                continue
            say(f"the endpoint answers 500 to everything for {OUTAGE_S} s")
            endpoint.override(error(500), OUTAGE_S)
        for request in endpoint.requests[shown:]:
            say(f"{request.method} {request.uuid} {request.status}: {request.answer}")
            shown += 1


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
    ENV.parent.mkdir(exist_ok=True)
    ENV.write_text("\n".join(lines) + "\n")


def show_commands() -> None:
    """Print the commands to try, with an explanation of each.

    The commands for SQS give the endpoint's URL, because version 1 of the AWS CLI ignores `AWS_ENDPOINT_URL` for SQS.
    """
    result = json.dumps({"uuid": CALL, "status": "Success"})
    detail = json.dumps({"uuid": CALL[:-1] + "Q", "status": "Failed"})
    event = {"Source": "flash-call.verification", "DetailType": "Flash Call Result", "Detail": detail}
    print(f"""
It is up, until Ctrl-C. In another shell, from the repository's root:
    . {ENV.relative_to(ROOT)}

Send a result through the queue (this call exists at the endpoint):
    aws sqs --endpoint-url "$AWS_ENDPOINT_URL" send-message --queue-url "$RESULT_QUEUE_URL" --message-body '{result}'

Send one through the event bus (the endpoint does not know this call; the relay parks it after a minute):
    aws events put-events --entries '{json.dumps([event])}'

List the parked results, each with its reason:
    .venv/dev/bin/flash-call-relay parked list

Follow one result, and check the relay (docs/operating.md has more):
    .venv/dev/bin/flash-call-relay story {CALL}
    .venv/dev/bin/flash-call-relay doctor --probe

Read the log:
    aws logs filter-log-events --log-group-name "$LOG_GROUP" --query 'events[].[message]' --output text

Deploy your changes (the emulator supports neither the concurrency cap nor the monitoring):
    sam build && sam deploy --stack-name {STACK_NAME} --resolve-s3 \\
        --capabilities CAPABILITY_IAM CAPABILITY_AUTO_EXPAND \\
        --parameter-overrides MaximumConcurrency=0 Monitoring=false WebhookUrl="$ENDPOINT_URL"

Press Enter here, and the endpoint answers 500 to everything for {OUTAGE_S} seconds. Its requests:
""")


if __name__ == "__main__":
    play()
