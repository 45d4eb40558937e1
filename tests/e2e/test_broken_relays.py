"""Relays that each break a promise. The soak must find every one of them."""

import random
import shutil
from functools import partial
from pathlib import Path

import pytest

from local.emulator.deployment import Deployment
from local.soak.plan import INVALID_BODIES, Plan, contradicting, failures, made_up
from local.soak.promises import PROMISES, check
from local.soak.run import Soak

DETECTION_LIMIT_S = 300

LOST, CONFIRMED, ONCE, CONTRADICTIONS, FAULT, CLOCK, CREDENTIALS, OBSERVED = PROMISES


def broken(promise: str, **additions: str) -> tuple[str, dict[str, str]]:
    """Return a promise, and the code that breaks it when it is appended to these modules of the package."""
    return promise, additions


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
    "sends a contradiction without a word": broken(
        CONTRADICTIONS,
        ledger="""
Ledger.look_up
Ledger.look_up = lambda *_: {}
_report = telemetry.report
telemetry.report = lambda event, **fields: event == "ledger.conflict" or _report(event, **fields)
""",
    ),
    "parks a good result for the endpoint's fault": broken(
        FAULT,
        policy="""
_given = _failure
def _failure(*args):
    reason = _given(*args)
    return Reason.REJECTED if reason is Reason.ENDPOINT_ERROR else reason
""",
    ),
    "overlooks the clock": broken(
        CLOCK,
        delivery="\nSETTLE_S -= 100\n",
        connections="""
_borrow = Connections.borrow
Connections.borrow = lambda self, _deadline, **options: _borrow(self, Deadline.after(100), **options)
""",
    ),
    "logs the key": broken(
        CREDENTIALS,
        webhook="""
_post = Webhook.post
Webhook.post = lambda *args, **options: (print(args[2].api_key), _post(*args, **options))[1]
""",
    ),
    "follows redirects": broken(
        CREDENTIALS,
        reply="""
_parse = parse
def parse(status, headers, body, credentials):
    if location := headers.get("Location"):
        urllib3.request("POST", location, headers={"x-api-key": credentials.api_key})
    return _parse(status, headers, body, credentials)
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
}


def plan(seed: str, other_host_url: str) -> Plan:
    """Return a plan of a few dozen results, which takes seconds."""
    result = partial(made_up, random.Random(seed))
    plain = [result() for _ in range(10)]
    items = [*plain, *INVALID_BODIES]
    for failure in failures(other_host_url):
        # A plain result after each, because five failures in a row make the relay spare the endpoint for 30 s.
        items += [result(behaviours=(failure,)), result()]
    return Plan(seed, items, [*plain[:3], *map(contradicting, plain[3:6])])


@pytest.mark.parametrize("name", ["nothing", *BROKEN])
def test_the_soak_finds_the_promise_that_a_relay_breaks(
    soaked: Deployment, package: Path, tmp_path: Path, name: str
) -> None:
    """The soak would pass a relay that breaks a promise, and prove nothing."""
    promise, additions = BROKEN.get(name, ("", {}))
    copy = tmp_path / "package"
    shutil.copytree(package, copy)
    shutil.rmtree(copy / "flash_call_relay" / "__pycache__", ignore_errors=True)  # else the runtime uses the bytecode
    for module, text in additions.items():
        with (copy / "flash_call_relay" / f"{module}.py").open("a") as source:
            source.write(text)

    def found() -> dict[str, list[str]]:
        return {one.name: one.broken for one in check(soak.facts()) if one.broken}

    def is_over() -> bool:
        if promise not in found():
            return not soak.queued()
        soak.runtime.stop()  # the facts of an invocation that is under way can look like a broken promise
        if promise not in found():
            soak.runtime.resume()
            return False
        return True

    made = partial(plan, name)
    with Soak(soaked, copy, tmp_path / "logs", made, fault_rate=None, limit_s=DETECTION_LIMIT_S) as soak:
        for items in (soak.plan.first, soak.plan.late):
            soak.send(items)
            soak.watch(is_over)
        soak.runtime.stop()
        result, facts = found(), soak.facts()
    started = any("outcome" in line for line in facts.log)
    assert started, {invocation.error for invocation in facts.invocations}
    assert (promise in result) if promise else not result, result


def test_each_promise_has_a_relay_that_breaks_it() -> None:
    """A promise could be broken without a failing soak."""
    assert {promise for promise, _ in BROKEN.values()} == set(PROMISES)
