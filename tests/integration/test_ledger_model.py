"""Random sequences of batches, faults, kills and replays, against a model of the results the ledger may suppress."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from flash_call_relay import telemetry
from flash_call_relay.models import OTHER
from local.emulator.emulator import Emulator
from local.endpoint.behaviour import Behaviour, answer, error, lost
from tests.support.payloads import result
from tests.support.relay import InProcessRelay, relaying

# With `lost` the endpoint accepts, but the relay gets no reply.
FAULTS = (error(500), error(400), lost(), answer(200, "<html></html>"))


class Killed(BaseException):
    """Lambda kills the function, as far as a test in one process can imitate it."""


class Sequences(RuleBasedStateMachine):
    """Batches of the results of a few calls, each of them again and again."""

    relay: InProcessRelay

    def __init__(self) -> None:
        super().__init__()
        self.relay.endpoint.heal()
        run = f"run-{len(self.relay.endpoint.requests)}-{id(self)}"
        self.uuids = [f"{run}-{number}" for number in range(4)]
        self.relay.end_environment()  # begin with a new gate

    @rule(
        records=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(sorted(OTHER))), min_size=1, max_size=5),
        faults=st.dictionaries(st.integers(0, 3), st.sampled_from(FAULTS), max_size=2),
        killed=st.booleans(),
    )
    def batch(self, records: list[tuple[int, str]], faults: dict[int, Behaviour], killed: bool) -> None:  # noqa: FBT001
        """Deliver a batch; by chance a record is new, a copy or a replay."""
        relay, endpoint = self.relay, self.relay.endpoint
        endpoint.heal()
        endpoint.issue(*(self.uuids[number] for number, _ in records))
        for number, fault in faults.items():
            endpoint.misbehave(self.uuids[number], fault)
        known = {uuid: item["status"] for uuid, item in relay.ledger_entries().items()}
        asked, logged = len(endpoint.requests), len(relay.lines("result."))
        messages = relay.send(*(result(self.uuids[number], status) for number, status in records))
        if killed:
            self.kill(messages)
            return
        kept = relay.invoke_with(messages)
        lines = relay.lines("result.")[logged:]
        assert len(lines) == len(records), "every record has one outcome"
        assert sorted(kept) == sorted(line["message_id"] for line in lines if line["outcome"] == "deferred")
        again = [request.uuid for request in endpoint.requests[asked:] if request.uuid in known]
        assert not again, "a confirmed result was sent again"
        for line in lines:
            pair = (line["uuid"], line["status"])
            if line["outcome"] in ("delivered", "duplicate"):
                assert pair in endpoint.accepted, "the endpoint has not confirmed it"
            if line.get("reason") == "conflicting_status":
                assert (pair[0], OTHER[pair[1]]) in endpoint.accepted

    def kill(self, messages: list[dict[str, Any]]) -> None:
        """End an invocation at its first outcome, before it writes anything."""

        def die(*_: object) -> None:
            raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(telemetry, "log_outcome", die)
            with pytest.raises(Killed):
                self.relay.invoke_with(messages)
        self.relay.end_environment()


def test_no_sequence_of_batches_faults_and_kills_repeats_a_confirmed_result_or_suppresses_another(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BetaTel would get copies of confirmed results, or never get a result that it has not confirmed."""
    with relaying(emulator, monkeypatch) as relay:
        relay.add_ledger(RETRY_BASE_SECONDS="900", FRESH_SECONDS="0")  # no deferred message returns during the test
        machine = type("Machine", (Sequences,), {"relay": relay})
        checks = [HealthCheck.too_slow]
        chosen = settings(max_examples=20, stateful_step_count=8, deadline=None, suppress_health_check=checks)
        run_state_machine_as_test(machine, settings=chosen)
