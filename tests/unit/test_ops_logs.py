"""Log lines are found in a small log and in a large one."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ops import logs
from ops.errors import CommandError


def line(number: int) -> str:
    """Return a line of the log."""
    return json.dumps({"timestamp": "2026-11-24T12:00:00Z", "uuid": 'a "call"', "number": number})


class Logs:
    """CloudWatch Logs with a number of pages; a query ends with a status after a number of polls."""

    def __init__(self, pages: int, *, ends: str = "Complete", refuses: str = "", polls: int = 2) -> None:
        self.pages, self.ends, self.refuses, self.polls = pages, ends, refuses, polls
        self.asked: list[dict[str, Any]] = []

    def filter_log_events(self, *, nextToken: str = "0", **asked: Any) -> dict[str, Any]:  # noqa: N803
        """Return one line per page, as boto3 does."""
        self.asked.append(asked)
        number = int(nextToken)
        more = {"nextToken": str(number + 1)} if number + 1 < self.pages else {}
        return {"events": [{"message": line(number)}, {"message": "no JSON"}], **more}

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
        cells = ([{"field": "@message", "value": line(n)}, {"field": "@ptr", "value": "x"}] for n in range(self.pages))
        return {"status": "Running" if self.polls > 0 else self.ends, "results": list(cells)}


def found(client: Logs) -> list[int]:
    """Return the numbers of the lines found for a call."""
    stack: Any = SimpleNamespace(client=lambda _: client, output=lambda _: "group")
    return [one["number"] for one in logs.find(stack, "uuid", 'a "call"', 1_000.0)]


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "POLL_S", 0)


def test_a_small_log_is_searched_with_a_filter() -> None:
    """An operator would pay for a query where one page is enough."""
    client = Logs(1)
    assert found(client) == [0]
    (asked,) = client.asked
    assert asked["filterPattern"] == '{ $.uuid = "a \\"call\\"" }'
    assert asked["startTime"] == 1_000_000


def test_a_large_log_is_searched_with_a_query() -> None:
    """An operator of a busy relay would wait for one page per megabyte."""
    client = Logs(50)
    assert found(client) == list(range(50))
    _, asked = client.asked
    assert 'filter uuid = "a \\"call\\""' in asked["queryString"]
    assert asked["startTime"] == 1_000
    assert asked["limit"] == 10_000


def test_a_search_stops_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check would read all lines of an outage."""
    monkeypatch.setattr(logs, "MAX_LINES", 7)
    assert found(Logs(50)) == list(range(7))


def test_without_permission_for_queries_all_pages_are_read() -> None:
    """An operator without permission for queries would find nothing."""
    assert found(Logs(4, refuses="AccessDeniedException")) == [0, 1, 2, 3]


def test_a_failed_query_ends_the_command() -> None:
    """An operator would believe that nothing happened to the result."""
    with pytest.raises(CommandError, match="ended as Failed"):
        found(Logs(4, ends="Failed"))
    with pytest.raises(ClientError):
        found(Logs(4, refuses="LimitExceededException"))


def test_a_slow_query_ends_the_command_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command would wait forever."""
    monkeypatch.setattr(logs, "PATIENCE_S", -1)
    with pytest.raises(CommandError, match="choose a later --since"):
        found(Logs(4, polls=1000))


def test_a_line_with_another_value_is_left_out() -> None:
    """On the local stack, whose logs ignore filters, an operator would see the lines of other calls."""
    stack: Any = SimpleNamespace(client=lambda _: Logs(1), output=lambda _: "group")
    assert list(logs.find(stack, "uuid", "another call", 1_000.0)) == []
