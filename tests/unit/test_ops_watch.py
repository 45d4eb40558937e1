"""`watch` shows what SQS and the log say, continues after a failure, and ends by itself."""

from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ops import logs, watch
from tests.support.aws import FakeStack, counts, log
from tests.support.operator import run

THROTTLED = ClientError({"Error": {"Code": "Throttling"}}, "GetQueueAttributes")
AT = 1_764_000_000.0  # 2025-11-24T16:00:00Z
LINES: list[dict[str, Any]] = [
    {"message": "result.delivered"},
    {"message": "result.delivered"},
    {"message": "result.deferred", "reason": "timeout", "age_s": 84.2},
    {"message": "result.deferred", "reason": "endpoint_failing", "age_s": 12},
    {"message": "result.deferred", "reason": "endpoint_failing", "age_s": 12},
    {"message": "result.deferred", "reason": "unknown_call", "age_s": 700},
    {"message": "endpoint.throttling"},
]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a clock that moves only while `watch` sleeps."""
    times = [AT]
    clock = SimpleNamespace(time=lambda: times[-1], sleep=lambda seconds: times.append(times[-1] + seconds))
    clock.monotonic = clock.time
    monkeypatch.setattr(watch, "time", clock)
    monkeypatch.setattr(logs, "time", clock)
    return clock


def stack(depths: list[Any] | None = None, state: str = "Enabled", asked: list[object] | None = None) -> FakeStack:
    """Return a stack with these depths of the result queue, one for each refresh."""
    results = iter(depths or [])

    def search(**request: object) -> dict[str, Any]:
        if asked is not None:
            asked.append(request)
        return {"queryId": "query"}

    def depth(QueueUrl: str, **_: Any) -> Any:  # noqa: N803
        if QueueUrl != "ResultQueueUrl":
            return counts(visible=2) if QueueUrl == "ParkedQueueUrl" else counts()
        reply = next(results, counts(visible=7, hidden=3, delayed=1))
        if isinstance(reply, Exception):
            raise reply
        return reply

    replies = log(*({"timestamp": "2025-11-24T15:59:00Z", **one} for one in LINES))
    mapping = {"State": state}
    return FakeStack(**{**replies, "start_query": search}, get_queue_attributes=depth, get_event_source_mapping=mapping)


@pytest.mark.parametrize(("state", "start"), [("Enabled", ""), ("Disabled", "PAUSED "), ("Disabling", "PAUSED ")])
def test_each_refresh_is_one_line(state: str, start: str) -> None:
    """An operator would see wrong numbers, or results that wait during a pause, and no cause."""
    ended = run(stack(state=state), "watch", "--count", "2")
    assert (ended.status, ended.err) == (0, "")
    numbers = "waiting 7, in flight 4, parked 2, dead-lettered 0; in 15 min delivered 2, deferred 4 "
    says = f"{start}{numbers}(endpoint_failing 2, timeout 1, unknown_call 1), the oldest 84 s; throttled"
    assert ended.out.splitlines() == [f"2025-11-24T16:00:0{second}Z  {says}" for second in (0, 5)]


def test_an_empty_queue_has_no_oldest_result() -> None:
    """After an outage an operator would believe that a result still waits."""
    assert run(stack([counts()]), "watch", "--count", "1").out.endswith(", unknown_call 1); throttled\n")


def test_the_log_is_read_every_15_s() -> None:
    """A view left open would cost money with each refresh."""
    asked: list[object] = []
    run(stack(asked=asked), "watch", "--every", "5", "--count", "13")
    assert len(asked) == 5


@pytest.mark.parametrize(
    ("depths", "count", "lines", "status"),
    [
        ([counts(), counts()], 9, 2, 0),
        ([counts(hidden=1), counts(), counts(delayed=1), counts(), counts()], 9, 5, 0),
        ([counts(), counts(visible=1)], 2, 2, 1),
    ],
)
def test_until_empty_ends_when_two_refreshes_see_nothing(
    depths: list[Any], count: int, lines: int, status: int
) -> None:
    """A script would wait forever, or go on because SQS's approximate count was 0 for a moment."""
    ended = run(stack(depths), "watch", "--until-empty", "--count", str(count))
    assert (ended.status, len(ended.out.splitlines())) == (status, lines)


def test_a_later_failure_does_not_end_the_view() -> None:
    """A short failure of the network would end the view at night."""
    ended = run(stack([counts(visible=1), THROTTLED, counts(visible=2)]), "watch", "--count", "3")
    assert ended.status == 0
    assert [line.split()[2] for line in ended.out.splitlines()] == ["1,", "2,"]
    assert ended.err.startswith("2025-11-24T16:00:05Z  AWS refused GetQueueAttributes: Throttling")


def test_a_first_failure_ends_the_command() -> None:
    """An operator without permission would watch nothing."""
    ended = run(stack([THROTTLED]), "watch")
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)


def test_ctrl_c_ends_it_with_status_0(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> None:
    """A script would treat the end of a view as a failure."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(clock, "sleep", interrupt)
    ended = run(stack(), "watch")
    assert (ended.status, ended.err, ended.out.count("\n")) == (0, "", 1)
