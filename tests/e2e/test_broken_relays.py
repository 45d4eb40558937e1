"""Relays that each break a promise. The soak must find every one of them."""

import shutil
import time
from pathlib import Path

import pytest

from local.soak.facts import Facts
from local.soak.plan import Plan
from local.soak.promises import PROMISES, check
from local.soak.run import Soak
from tests.support.deployed import SoakStage

HORIZON_S = 200  # no result waits this long unless it has to, even on a stalled machine
CORRECT_RUN_S = 5
DETECTION_LIMIT_S = 300

LOST, CONFIRMED, ONCE, CONTRADICTIONS, FAULT, HORIZON, REFUSED, CLOCK, CREDENTIALS, OBSERVED = PROMISES

REJECTS = """
_given = _failure
def _failure(*args):
    reason = _given(*args)
    return Reason.REJECTED if reason is Reason.{} else reason
"""


def broken(promise: str, **additions: str) -> tuple[str, dict[str, str]]:
    """Return a promise, and the code that breaks it when it is appended to these modules of the package."""
    return promise, additions


LATE, HASTY = "overlooks the clock", "does not wait although it is asked to"
BROKEN = {
    "drops a deferred result": broken(
        LOST,
        handler="""
_handle = lambda_handler
def lambda_handler(*args):
    return {"batchItemFailures": _handle(*args)["batchItemFailures"][1:]}
""",
    ),
    "believes any 200": broken(
        CONFIRMED,
        policy="""
_believed = _failure
def _failure(settings, result, reply):
    return None if reply.http_status == 200 else _believed(settings, result, reply)
""",
    ),
    "forgets what is in the ledger": broken(ONCE, ledger="\nLedger.look_up\nLedger.look_up = lambda *_: {}\n"),
    "takes a contradiction for a copy": broken(
        CONTRADICTIONS, policy="\n_compare\ndef _compare(*_): return models.Duplicate()\n"
    ),
    "parks a good result for the endpoint's fault": broken(FAULT, policy=REJECTS.format("ENDPOINT_ERROR")),
    "gives up early": broken(
        HORIZON,
        policy="""
from dataclasses import replace
_decide = decide
def decide(settings, *args, **options):
    return _decide(replace(settings, retry_horizon_seconds=settings.retry_horizon_seconds // 10), *args, **options)
""",
    ),
    "parks what was refused": broken(REFUSED, policy=REJECTS.format("CREDENTIALS_REJECTED")),
    LATE: broken(
        CLOCK,
        delivery="\nSETTLE_S -= 100\n",
        connections="""
_borrow = Connections.borrow
Connections.borrow = lambda self, _deadline, **options: _borrow(self, Deadline.after(100), **options)
""",
    ),
    HASTY: broken(CLOCK, gate="\nGate.blocked\nGate.blocked = lambda *_: None\n"),
    "logs the key": broken(
        CREDENTIALS,
        webhook="""
_post = Webhook.post
Webhook.post = lambda *args, **options: (print(args[2].api_key), _post(*args, **options))[1]
""",
    ),
    "follows redirects": broken(
        CREDENTIALS,
        webhook="""
from urllib3.connection import HTTPConnection
_get, _post = HTTPConnection.getresponse, Webhook.post
def _get_and_see(self):
    response = _get(self)
    _seen.location = response.headers.get("Location")
    return response
HTTPConnection.getresponse = _get_and_see
def _post_and_follow(self, result, credentials, *further, **options):
    _seen.location = None
    answer = _post(self, result, credentials, *further, **options)
    if _seen.location:
        urllib3.request("POST", _seen.location, headers={"x-api-key": credentials.api_key})
    return answer
Webhook.post = _post_and_follow
import threading
_seen = threading.local()
""",
    ),
    "fails when the outcome bus does": broken(
        OBSERVED,
        outcome_bus="""
_publish = OutcomeBus.publish
def _publish_and_fail(*args, **options):
    _publish(*args, **options)
    raise OSError("no route to EventBridge")
OutcomeBus.publish = _publish_and_fail
""",
    ),
    "fails when logging does": broken(
        OBSERVED,
        telemetry="""
_log_outcome = Invocation.log_outcome
def _log_and_fail(*args):
    _log_outcome(*args)
    raise OSError("no space left")
Invocation.log_outcome = _log_and_fail
""",
    ),
}


def broken_promises(facts: Facts) -> set[str]:
    """Return the promises that the check finds broken."""
    return {promise.name for promise in check(facts) if promise.broken}


@pytest.mark.parametrize("name", ["nothing", *BROKEN])
def test_the_soak_finds_the_promise_that_a_relay_breaks(
    stage: SoakStage, package: Path, tmp_path: Path, name: str
) -> None:
    """The soak would pass a relay that breaks a promise, and prove nothing."""
    promise, additions = BROKEN.get(name, ("", {}))
    copy = tmp_path / "package"
    shutil.copytree(package, copy)
    shutil.rmtree(copy / "flash_call_relay" / "__pycache__", ignore_errors=True)  # else the runtime uses the bytecode
    for module, text in additions.items():
        with (copy / "flash_call_relay" / f"{module}.py").open("a") as source:
            source.write(text)
    plan = Plan.short(name, stage.other_host.url)
    soak = Soak(stage.deployment, stage.port, copy, tmp_path / "logs", plan, stage.other_host)
    soak.fault_rate, soak.horizon_s = None, HORIZON_S
    if name == LATE:
        soak.timeout_s = 4  # this relay reserves no time for settling, so a short time-out shows the failure sooner
    half = len(plan.to_queue) // 2
    early = {item.text for item in plan.to_queue[:half] if item.pair and not item.behaviours and not item.always}

    def is_found() -> bool:
        if promise not in broken_promises(soak.facts()):
            return False
        soak.runtime.stop()  # the facts of an invocation that is under way can look like a broken promise
        found = promise in broken_promises(soak.facts())
        if not found:
            soak.runtime.resume()
        return found

    def early_are_gone() -> bool:  # so that their copies come later, and only the other results meet the rotated key
        return early.isdisjoint(message["Body"] for message in soak.deployment.peek("ResultQueueUrl"))

    with soak:
        soak.endpoint.limit(2 if name == HASTY else None, retry_after=2)
        soak.send(plan.to_queue[:half])
        soak.watch(lambda: early_are_gone() or is_found(), time.monotonic() + DETECTION_LIMIT_S)
        if not is_found():
            with soak.rotation():
                soak.send([*plan.to_queue[half:], *plan.late])
            soak.watch(is_found, time.monotonic() + (DETECTION_LIMIT_S if promise else CORRECT_RUN_S))
        soak.runtime.stop()
        facts = soak.facts()
    started = any("outcome" in line for line in facts.log)
    assert started, {invocation.error for invocation in facts.invocations}
    found = {one.name: one.broken for one in check(facts) if one.broken}
    assert (promise in found) if promise else not found, found


def test_each_promise_has_a_relay_that_breaks_it() -> None:
    """A promise could be broken without a failing soak."""
    assert {promise for promise, _ in BROKEN.values()} == set(PROMISES)
