"""The time reserved at the end of an invocation covers the slowest calls to AWS."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from flash_call_relay import budget, handler, ledger
from local.endpoint.behaviour import answer, hang
from local.endpoint.standin import WEBHOOK_PATH, StandIn
from tests.support.relay import KEY, PATIENCE_S, USER
from tests.support.template import template

CALLS = {
    "sqs": (budget.AWS_CALL, "list_queues", {}),
    "secretsmanager": (budget.AWS_CALL, "get_secret_value", {"SecretId": "none"}),
    "dynamodb": (budget.LEDGER_CALL, "list_tables", {}),
    "events": (budget.EVENTS_CALL, "list_rules", {}),
}


Ended = list[tuple[budget.Call, BaseException, int, float]]
PATIENT = Config(connect_timeout=PATIENCE_S, read_timeout=PATIENCE_S)
THROTTLED = answer(400, {"__type": "ThrottlingException"}, {"x-amz-retry-after": "60000"})


@pytest.fixture(scope="module")
def failed() -> dict[str, Ended]:
    """Make each call to a silent service and to one that throttles, all at once.

    Return their errors, numbers of requests and durations.
    """
    make: Any = boto3.Session().client
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "eu-central-1"}
    behaviours = {"silent": (hang(), Config()), "throttles": (THROTTLED, PATIENT)}
    with ThreadPoolExecutor(2 * len(CALLS)) as threads, contextlib.ExitStack() as servers:
        begun = []
        for way, (behaviour, limits) in behaviours.items():
            for service, (call, operation, arguments) in CALLS.items():
                server = servers.enter_context(StandIn(api_key=KEY, user_id=USER))
                server.override(behaviour)
                url = server.url.removesuffix(WEBHOOK_PATH)
                client = make(service, endpoint_url=url, config=handler._bounded(call).merge(limits), **keys)
                begun.append((way, call, server, threads.submit(timed, getattr(client, operation), arguments)))
        ended: dict[str, Ended] = {way: [] for way in behaviours}
        for way, call, server, pending in begun:
            error, took_s = pending.result(call.worst + PATIENCE_S)
            ended[way].append((call, error, len(server.requests), took_s))
    return ended


def timed(call: Any, arguments: Any) -> tuple[BaseException, float]:
    """Return the error of a call, and the seconds until it."""
    began = time.monotonic()
    with pytest.raises((BotoCoreError, ClientError)) as failed:
        call(**arguments)
    return failed.value, time.monotonic() - began


def test_a_call_to_a_silent_service_ends_within_its_worst_case(failed: dict[str, Ended]) -> None:
    """Lambda would kill the function while it hides or parks, and its whole batch would come back."""
    for call, error, requests, _ in failed["silent"]:
        assert isinstance(error, BotoCoreError)
        assert requests <= call.attempts


def test_a_service_that_asks_for_a_minute_gets_the_wait_of_the_worst_case(failed: dict[str, Ended]) -> None:
    """Botocore would wait for a throttled service until Lambda kills the function."""
    for call, error, requests, took_s in failed["throttles"]:
        assert isinstance(error, ClientError)
        assert requests == call.attempts
        assert took_s >= 5 * (call.attempts - 1), "the worst case includes botocore's own limit of 5 s"


def test_the_parts_of_the_budget_fit_the_functions_timeout() -> None:
    """The parts of an invocation would take longer than Lambda gives the function."""
    timeout_s = template()["Resources"]["RelayFunction"]["Properties"]["Timeout"]
    longest_attempt_s = template()["Parameters"]["RequestTimeoutSeconds"]["MaxValue"]
    assert budget.AWS_CALL.worst == 2 * (1 + 2) + 1 + 5
    assert budget.SETTLE_S == budget.CALLS_S + budget.LAST_CALL_S
    # The ledger read of a batch of 10, a slow fetch of the secret, and the longest attempt, in the worst case of one.
    slowest_s = max(budget.LEDGER_CALL.worst, budget.AWS_CALL.worst)
    assert slowest_s + longest_attempt_s <= timeout_s - budget.SETTLE_S
    # SQS leaves time for the ledger's write and the events, unless its calls take seconds.
    assert ledger.WRITE_S + budget.EVENTS_S + budget.EVENTS_CALL.worst + budget.REPORT_S <= budget.SETTLE_S


def test_a_third_attempt_makes_the_worst_case_longer() -> None:
    """A change could give botocore a third attempt without a longer worst case."""
    assert budget.Call(1, 2, attempts=3).worst == 3 * (1 + 2) + (1 + 5) + (2 + 5)
    for call, *_ in CALLS.values():
        known: Any = handler._bounded(call)
        assert (known.connect_timeout, known.read_timeout) == (call.connect, call.read)
