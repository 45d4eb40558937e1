"""Log lines are found and counted by CloudWatch Logs Insights."""

from datetime import UTC, datetime
from typing import Any

import pytest

from ops import logs
from ops.errors import CommandError
from tests.support.aws import FakeStack, log

AT = "2026-11-24T12:00:00Z"


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "POLL_S", 0)


def test_the_lines_of_one_value_are_found() -> None:
    """An operator would read the story of another call, or search another time."""
    asked, states = list[dict[str, Any]](), iter(["Scheduled", "Running", "Complete"])
    about = [{"timestamp": AT, "message": "m", "uuid": 'a "call"', "number": number} for number in (0, 1)]
    rows = log(*about, {"timestamp": AT, "message": "m", "uuid": "another"}, {"uuid": 'a "call"'})["get_query_results"]

    def start(**request: Any) -> dict[str, str]:
        asked.append(request)
        return {"queryId": "query"}

    stack = FakeStack(start_query=start, get_query_results=lambda **_: {**rows, "status": next(states)})
    rows["results"].append([{"field": "@message", "value": "no JSON"}])
    assert logs.find(stack, "uuid", 'a "call"', 1_000.0) == about
    (query,) = asked
    assert (query["startTime"], query["limit"], query["logGroupName"]) == (1_000, 10_000, "LogGroupName")
    assert 'filter uuid = "a \\"call\\""' in query["queryString"]


@pytest.mark.parametrize(("status", "says"), [("Failed", "ended as Failed"), ("Running", "did not finish within 0 s")])
def test_a_query_without_rows_ends_the_command(monkeypatch: pytest.MonkeyPatch, status: str, says: str) -> None:
    """An operator would believe that nothing happened to the result, or wait forever."""
    monkeypatch.setattr(logs, "PATIENCE_S", 0)
    with pytest.raises(CommandError, match=says):
        logs.find(FakeStack(**{**log(), "get_query_results": {"status": status}}), "uuid", "a", 0)


def line(at: float, message: str, **fields: object) -> dict[str, Any]:
    """Return a log line."""
    return {"timestamp": datetime.fromtimestamp(at, UTC).isoformat(), "message": message, **fields}


def test_outcomes_are_found_oldest_first() -> None:
    """An operator would look at a cause that is over, or at results that are no recent outcomes."""
    found = logs.recent(
        FakeStack(
            **log(
                line(100, "result.deferred", reason="timeout", uuid="held"),
                line(80, "result.deferred", reason="timeout", uuid="tried", duration_ms=1.5, age_s=12),
                line(50, "result.deferred", reason="timeout", uuid="old", duration_ms=1.5, age_s=84.2),
                line(90, "result.delivered", uuid="c", duration_ms=1.5),
                line(90, "result.parked", reason="rejected", uuid="d"),
            )
        )
    )
    assert [line["uuid"] for line in found] == ["old", "tried", "c", "held"]


@pytest.mark.parametrize(
    ("lines", "throttled"),
    [
        ([line(1, "endpoint.throttling")], True),
        ([line(1, "endpoint.throttling"), line(2, "endpoint.throttling_ended")], False),
        ([line(2, "endpoint.throttling_ended"), line(3, "endpoint.throttling")], True),
        ([line(1, "result.deferred", reason="throttled")], True),
        ([line(1, "result.deferred", reason="throttled"), line(2, "endpoint.throttling_ended")], False),
        ([line(1, "result.deferred", reason="timeout")], False),
    ],
)
def test_throttling_is_told_until_it_ends(lines: list[dict[str, Any]], *, throttled: bool) -> None:
    """An operator would take a queue that drains at BetaTel's limit for one that does not drain."""
    assert logs.throttled(logs.recent(FakeStack(**log(*lines)))) == throttled
