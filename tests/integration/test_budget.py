"""The time reserved at the end of an invocation covers the slowest calls to AWS."""

from typing import Any

import boto3
import pytest
from botocore.exceptions import BotoCoreError

from flash_call_relay import budget, handler, ledger
from local.endpoint.behaviour import hang
from local.endpoint.standin import WEBHOOK_PATH, StandIn
from tests.support.relay import KEY, USER
from tests.support.template import template


@pytest.mark.parametrize(
    ("service", "operation", "call"),
    [("dynamodb", "list_tables", budget.LEDGER_CALL), ("events", "list_rules", budget.EVENTS_CALL)],
    ids=["two attempts", "one attempt"],
)
def test_a_call_to_a_silent_service_makes_no_more_attempts_than_its_worst_case_has(
    service: str, operation: str, call: budget.Call
) -> None:
    """Lambda would kill the function while it hides or parks, and its whole batch would come back."""
    make: Any = boto3.Session().client
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "eu-central-1"}
    with StandIn(api_key=KEY, user_id=USER) as silent:
        silent.override(hang())
        url = silent.url.removesuffix(WEBHOOK_PATH)
        client = make(service, endpoint_url=url, config=handler._bounded(call), **keys)
        with pytest.raises(BotoCoreError):
            getattr(client, operation)()
        assert len(silent.requests) <= call.attempts


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
    for call in (budget.AWS_CALL, budget.LEDGER_CALL, budget.EVENTS_CALL):
        known: Any = handler._bounded(call)
        assert (known.connect_timeout, known.read_timeout) == (call.connect, call.read)
