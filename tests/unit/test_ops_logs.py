"""Lines of the log are found however many there are."""

import json
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ops import logs
from ops.problems import Problem


def line(number: int) -> str:
    """Return a line of the log."""
    return json.dumps({"timestamp": "2026-11-24T12:00:00Z", "uuid": "call", "number": number})


class Logs:
    """CloudWatch Logs with so many pages of results; a query takes some looks to end as it is told."""

    def __init__(self, pages: int, *, ends: str = "Complete", refuses: str = "", looks: int = 2) -> None:
        self.pages, self.ends, self.refuses, self.looks = pages, ends, refuses, looks
        self.asked: list[dict[str, Any]] = []

    def filter_log_events(self, *, nextToken: str = "0", **asked: Any) -> dict[str, Any]:  # noqa: N803
        """As boto3's: a line a page."""
        self.asked.append(asked)
        number = int(nextToken)
        more = {"nextToken": str(number + 1)} if number + 1 < self.pages else {}
        return {"events": [{"message": line(number)}, {"message": "no JSON"}], **more}

    def start_query(self, **asked: Any) -> dict[str, str]:
        """As boto3's."""
        if self.refuses:
            raise ClientError({"Error": {"Code": self.refuses}}, "StartQuery")
        self.asked.append(asked)
        return {"queryId": "query"}

    def get_query_results(self, queryId: str) -> dict[str, Any]:  # noqa: N803
        """As boto3's."""
        assert queryId == "query"
        self.looks -= 1
        cells = ([{"field": "@message", "value": line(n)}, {"field": "@ptr", "value": "x"}] for n in range(self.pages))
        return {"status": "Running" if self.looks > 0 else self.ends, "results": list(cells)}


def found(client: Logs, most: int = logs.MOST_FOUND) -> Iterable[int]:
    """Return the numbers of the lines found about a call."""
    stack: Any = SimpleNamespace(client=lambda _: client, output=lambda _: "group")
    return [one["number"] for one in logs.lines(stack, "uuid", 'a "call"', 1_000.0, most)]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "GLANCE_S", 0)


def test_a_small_log_is_filtered() -> None:
    """A query would be paid for where a page is enough."""
    client = Logs(1)
    assert found(client) == [0]
    (asked,) = client.asked
    assert asked["filterPattern"] == '{ $.uuid = "a \\"call\\"" }'
    assert asked["startTime"] == 1_000_000


def test_a_large_log_is_queried() -> None:
    """At volume, a person would wait for page after page of a megabyte each."""
    client = Logs(50)
    assert found(client) == list(range(50))
    _, asked = client.asked
    assert 'filter uuid = "a \\"call\\""' in asked["queryString"]
    assert asked["startTime"] == 1_000
    assert asked["limit"] == 10_000


def test_no_more_is_found_than_wanted() -> None:
    """A check would take in all lines of an outage."""
    assert found(Logs(50), most=7) == list(range(7))


def test_who_may_not_query_gets_all_pages() -> None:
    """Somebody with the permissions of an older version would be refused."""
    assert found(Logs(4, refuses="AccessDeniedException")) == [0, 1, 2, 3]


def test_a_query_that_fails_is_told() -> None:
    """Somebody would take it that nothing happened to the result."""
    with pytest.raises(Problem, match="ended as Failed"):
        found(Logs(4, ends="Failed"))
    with pytest.raises(ClientError):
        found(Logs(4, refuses="LimitExceededException"))


def test_a_query_that_takes_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command would wait for ever."""
    monkeypatch.setattr(logs, "PATIENCE_S", -1)
    with pytest.raises(Problem, match="look less far back"):
        found(Logs(4, looks=1000))
