"""Log lines are found and counted in a small log and in a large one."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ops import logs
from ops.errors import CommandError
from tests.support.aws import FakeStack

AT = "2026-11-24T12:00:00Z"


class Logs:
    """CloudWatch Logs with a line on each page; a query ends with a status and these rows after some polls."""

    def __init__(self, lines: list[dict[str, Any]], rows: list[dict[str, str]] | None = None, **query: Any) -> None:
        self.lines, self.rows, self.asked = lines, rows, list[dict[str, Any]]()
        self.ends, self.refuses, self.polls = query.get("ends", "Complete"), query.get("refuses"), query.get("polls", 2)

    def stack(self) -> FakeStack:
        """Return a stack with this log."""
        return FakeStack(
            filter_log_events=self.filter_log_events,
            start_query=self.start_query,
            get_query_results=self.get_query_results,
        )

    def filter_log_events(self, *, nextToken: str = "0", **asked: Any) -> dict[str, Any]:  # noqa: N803
        """Return one line per page, as boto3 does."""
        self.asked.append(asked)
        number = int(nextToken)
        more = {"nextToken": str(number + 1)} if number + 1 < len(self.lines) else {}
        return {"events": [{"message": json.dumps(self.lines[number])}, {"message": "no JSON"}], **more}

    def start_query(self, **asked: Any) -> dict[str, str]:
        """Answer as boto3 does."""
        if self.refuses:
            raise ClientError({"Error": {"Code": self.refuses}}, "StartQuery")
        self.asked.append(asked)
        return {"queryId": "query"}

    def get_query_results(self, queryId: str) -> dict[str, Any]:  # noqa: N803
        """Answer as boto3 does."""
        assert queryId == "query"
        self.polls -= 1
        rows = self.rows if self.rows is not None else [{"@message": json.dumps(one)} for one in self.lines]
        cells = [[{"field": name, "value": value} for name, value in {**row, "@ptr": "x"}.items()] for row in rows]
        return {"status": "Running" if self.polls > 0 else self.ends, "results": cells}


def lines(number: int) -> list[dict[str, Any]]:
    """Return lines about a call, then one about another call."""
    about = [{"timestamp": AT, "uuid": 'a "call"', "number": n} for n in range(number)]
    return [*about, {"timestamp": AT, "uuid": "another"}]


def found(log: Logs) -> list[int]:
    """Return the numbers of the lines found for a call."""
    return [one["number"] for one in logs.find(log.stack(), "uuid", 'a "call"', 1_000.0)]


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "POLL_S", 0)


def test_a_small_log_is_searched_with_a_filter() -> None:
    """An operator would pay for a query where one page is enough."""
    log = Logs(lines(1)[:1])
    assert found(log) == [0]
    (asked,) = log.asked
    assert (asked["filterPattern"], asked["startTime"]) == ('{ $.uuid = "a \\"call\\"" }', 1_000_000)


def test_a_large_log_is_searched_with_a_query() -> None:
    """An operator of a busy relay would wait for one page per megabyte."""
    log = Logs(lines(50))
    assert found(log) == list(range(50))
    _, asked = log.asked
    assert 'filter uuid = "a \\"call\\""' in asked["queryString"]
    assert (asked["startTime"], asked["limit"]) == (1_000, 10_000)


def test_without_permission_for_queries_the_pages_are_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator without permission for queries would find nothing, or read all lines of an outage."""
    assert found(Logs(lines(4), refuses="AccessDeniedException")) == [0, 1, 2, 3]
    monkeypatch.setattr(logs, "MAX_LINES", 4)
    assert found(Logs(lines(4), refuses="AccessDeniedException")) == [0, 1]  # half of the texts are no JSON


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"ends": "Failed"}, "ended as Failed"),
        ({"polls": 10**9}, "did not finish within 0 s"),
        ({"refuses": "Limit"}, "Limit"),
    ],
)
def test_a_query_without_rows_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, query: dict[str, Any], says: str
) -> None:
    """An operator would believe that nothing happened to the result, or wait forever."""
    monkeypatch.setattr(logs, "PATIENCE_S", 60 if "ends" in query else 0)
    with pytest.raises((CommandError, ClientError), match=says):
        found(Logs(lines(4), **query))


def outcomes(now: float) -> list[dict[str, Any]]:
    """Return lines about outcomes, and one that is too old."""
    rows: list[tuple[str, str | None, int, str, dict[str, Any]]] = [
        ("result.deferred", "timeout", 2000, "old", {}),
        ("result.deferred", "timeout", 300, "a", {"duration_ms": 1.5, "age_s": 84.2}),
        ("result.deferred", "timeout", 200, "b", {"duration_ms": 1.5, "age_s": 12}),
        ("result.deferred", "timeout", 100, "held", {}),
        ("result.delivered", None, 50, "c", {"duration_ms": 1.5}),
        ("result.parked", "rejected", 50, "d", {}),
    ]
    return [
        {"timestamp": datetime.fromtimestamp(now - age_s, UTC).isoformat(), "message": message, "uuid": uuid, **facts}
        | ({"reason": reason} if reason else {})
        for message, reason, age_s, uuid, facts in rows
    ]


def test_outcomes_are_counted_alike_in_a_small_log_and_by_a_query() -> None:
    """In an outage that fills the log, the counts and times would be those of its first 10,000 lines."""
    now = float(int(time.time()))
    read = logs.recent(Logs(outcomes(now), refuses="AccessDeniedException").stack())
    rows = [
        {"message": "result.deferred", "reason": "timeout", "tried": "1", "times": "2", "uuid": "b", "age_s": "84.2"},
        {"message": "result.deferred", "reason": "timeout", "tried": "0", "times": "1", "uuid": "held"},
        {"message": "result.delivered", "tried": "1", "times": "1", "uuid": "c"},
    ]
    for row, age_s in zip(rows, (200, 100, 50), strict=True):
        row["at"] = datetime.fromtimestamp(now - age_s, UTC).isoformat()
    log = Logs(outcomes(now), rows)
    assert logs.recent(log.stack()) == read
    assert "stats count(*)" in log.asked[-1]["queryString"]
    deferred, delivered = read["result.deferred", "timeout"], read["result.delivered", ""]
    assert (deferred.times, deferred.at, deferred.age_s, deferred.uuid) == (3, now - 100, 84.2, "b")
    assert (delivered.times, delivered.at, delivered.uuid, len(read)) == (1, now - 50, "c", 2)
