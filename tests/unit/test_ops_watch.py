"""`watch` shows what SQS and the log say, and ends by itself; the log is read by CloudWatch Logs Insights."""

from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ops import logs, watch
from ops.errors import CommandError
from tests.support.aws import FakeStack, counts, line, log
from tests.support.operator import run

AT = 1_764_000_000.0  # 2025-11-24T16:00:00Z


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a clock that moves only during a sleep."""
    times = [AT]
    clock = SimpleNamespace(time=lambda: times[-1], sleep=lambda seconds: times.append(times[-1] + seconds))
    clock.monotonic = clock.time
    monkeypatch.setattr(watch, "time", clock)
    monkeypatch.setattr(logs, "time", clock)
    return clock


LINES = (
    line(AT - 60, "result.delivered"),
    line(AT - 60, "result.delivered"),
    line(AT - 60, "result.deferred", reason="timeout", age_s=84.2),
    line(AT - 60, "result.deferred", reason="endpoint_failing", age_s=12),
    line(AT - 60, "result.deferred", reason="endpoint_failing", age_s=12),
    line(AT - 60, "result.deferred", reason="unknown_call", age_s=700),
    line(AT - 60, "endpoint.throttling"),
)


def stack(*depths: Any, state: str = "Enabled") -> FakeStack:
    """Return a stack with these depths of the result queue, one for each refresh."""
    results = iter(depths)

    def depth(QueueUrl: str, **_: Any) -> Any:  # noqa: N803
        if QueueUrl != "ResultQueueUrl":
            return counts(visible=2) if QueueUrl == "ParkedQueueUrl" else counts()
        reply = next(results, counts(visible=7, hidden=3, delayed=1))
        if isinstance(reply, Exception):
            raise reply
        return reply

    return FakeStack(**log(*LINES), get_queue_attributes=depth, get_event_source_mapping={"State": state})


@pytest.mark.parametrize(("state", "start"), [("Enabled", ""), ("Disabled", "PAUSED "), ("Disabling", "PAUSED ")])
def test_each_refresh_is_one_line(state: str, start: str) -> None:
    """An operator would see wrong numbers, or results that wait during a pause, and no cause."""
    ended = run(stack(state=state), "watch", "--count", "2")
    assert (ended.status, ended.err) == (0, "")
    numbers = "waiting 7, in flight 4, parked 2, dead-lettered 0; in 15 min delivered 2, deferred 4 "
    says = f"{start}{numbers}(endpoint_failing 2, timeout 1, unknown_call 1), the oldest 84 s; throttled"
    assert ended.out.splitlines() == [f"2025-11-24T16:00:0{second}Z  {says}" for second in (0, 5)]


def test_the_log_is_read_every_15_s() -> None:
    """A view left open would cost money with each refresh."""
    watched = stack()
    run(watched, "watch", "--every", "5", "--count", "13")
    assert len(watched.aws.asked("start_query")) == 5


@pytest.mark.parametrize(
    ("depths", "count", "lines", "status"),
    [
        ([counts(), counts()], 9, 2, 0),
        ([counts(hidden=1), counts(), counts(delayed=1), counts(), counts()], 9, 5, 0),
        ([counts(), counts(visible=1)], 2, 2, 1),
    ],
    ids=["empty", "empty for a moment", "not empty in time"],
)
def test_until_empty_ends_when_two_refreshes_see_nothing(
    depths: list[Any], count: int, lines: int, status: int
) -> None:
    """A script would wait forever, or go on because SQS's approximate count was 0 for a moment."""
    ended = run(stack(*depths), "watch", "--until-empty", "--count", str(count))
    assert (ended.status, len(ended.out.splitlines())) == (status, lines)
    assert ("the oldest" in ended.out.splitlines()[-1]) == (status == 1), "an empty queue has no oldest result"


def test_a_later_failure_does_not_end_the_view() -> None:
    """A short failure of the network would end the view at night."""
    refused = ClientError({"Error": {"Code": "Throttling"}}, "GetQueueAttributes")
    ended = run(stack(counts(visible=1), refused, counts(visible=2)), "watch", "--count", "3")
    assert ended.status == 0
    assert [line.split()[2] for line in ended.out.splitlines()] == ["1,", "2,"]
    assert ended.err.startswith("2025-11-24T16:00:05Z  AWS refused GetQueueAttributes: Throttling")
    assert run(stack(refused), "watch", "--count", "1").status == 2, "a first failure is one of the command"


def test_ctrl_c_ends_it_with_status_0(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> None:
    """A script would treat the end of a view as a failure."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(clock, "sleep", interrupt)
    ended = run(stack(), "watch")
    assert (ended.status, ended.err, ended.out.count("\n")) == (0, "", 1)


def test_the_lines_of_one_value_are_found() -> None:
    """An operator would read the story of another call, or search another time."""
    states = iter(["Scheduled", "Running", "Complete"])
    about = [line(AT - 0, "m", uuid='a "call"', number=number) for number in (0, 1)]
    replies = log(*about, line(AT - 0, "m", uuid="another"), {"uuid": 'a "call"'})
    rows = [*replies["get_query_results"]["results"], [{"field": "@message", "value": "no JSON"}]]
    stack = FakeStack(**replies | {"get_query_results": lambda **_: {"status": next(states), "results": rows}})
    assert logs.find(stack, "uuid", 'a "call"', 1_000.0) == about
    (query,) = stack.aws.asked("start_query")
    assert (query["startTime"], query["limit"], query["logGroupName"]) == (1_000, 10_000, "LogGroupName")
    assert 'filter uuid = "a \\"call\\""' in query["queryString"]


@pytest.mark.parametrize(("status", "says"), [("Failed", "ended as Failed"), ("Running", "did not finish within 60 s")])
def test_a_query_without_rows_ends_the_command(status: str, says: str) -> None:
    """An operator would believe that nothing happened to the result, or wait forever."""
    with pytest.raises(CommandError, match=says):
        logs.find(FakeStack(**{**log(), "get_query_results": {"status": status}}), "uuid", "a", 0)


STARTED, LATER = (line(AT - ago_s, "endpoint.throttling") for ago_s in (3, 1))
ENDED = line(AT - 2, "endpoint.throttling_ended")
HELD, TIMEOUT = (line(AT - 3, "result.deferred", reason=reason) for reason in ("throttled", "timeout"))


@pytest.mark.parametrize(
    ("lines", "throttled"),
    [
        ([STARTED], True),
        ([STARTED, ENDED], False),
        ([ENDED, LATER], True),
        ([HELD], True),
        ([HELD, ENDED], False),
        ([TIMEOUT], False),
    ],
    ids=["started", "ended", "started again", "held", "held, then ended", "another reason"],
)
def test_throttling_is_told_until_it_ends(lines: list[dict[str, Any]], *, throttled: bool) -> None:
    """An operator would take a queue that drains at BetaTel's limit for one that does not drain."""
    newest_first = log(*reversed(lines))
    assert logs.throttled(logs.recent(FakeStack(**newest_first))) == throttled
