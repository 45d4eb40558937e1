"""The documented contract of BetaTel's webhook, as a pure function: a request in, an answer out.

`answer` keeps the contract. `misbehave` departs from it for a call whose uuid asks for that.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import cast

WEBHOOK_PATH = "/api/v1/connect-hub/call/flash/webhook"
TYPE_HTML = (("Content-Type", "text/html; charset=utf-8"),)
ASKS = re.compile(r"test-([45]\d\d|page|other-status|slow)(?:x(\d{1,3}))?(?:-(\d{1,2}))?-.+", re.ASCII)
OF_THE_RECORD = {"400", "404", "409", "413", "422"}  # refusals that another try does not change


@dataclass(frozen=True, slots=True)
class Answer:
    """What the endpoint answers; `accepted` is the uuid and the status that it takes."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...]
    accepted: tuple[str, str] | None = None
    wait_s: int = 0  # before it is sent


def json_answer(status: int, value: object, *headers: tuple[str, str]) -> Answer:
    """Return an answer whose body is `value` as JSON."""
    return Answer(status, json.dumps(value).encode(), (("Content-Type", "application/json"), *headers))


def answer(  # noqa: PLR0913 - a request, and what the endpoint knows
    method: str,
    path: str,
    headers: Iterable[tuple[str, str]],
    body: bytes,
    *,
    credentials: tuple[str, str],
    knows: Callable[[str], bool],
) -> Answer:
    """Return the documented answer to a request; `credentials` are the `x-api-key` and the `x-user-id` it accepts."""
    if (method, path) != ("POST", WEBHOOK_PATH):
        return Answer(404, b"<html><body><h1>404 Not Found</h1></body></html>", TYPE_HTML)
    sent = {name.lower(): value for name, value in headers}
    if (sent.get("x-api-key"), sent.get("x-user-id")) != credentials:
        return json_answer(401, {"message": "Unauthorized"})
    is_json = sent.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
    match parse(body):
        case {"uuid": str(uuid), "status": "Success" | "Failed" as status, **rest} if is_json and not rest:
            if not knows(uuid):
                return json_answer(404, {"message": "The flash call does not exist"})
            proper = json_answer(200, {"uuid": uuid, "status": status, "message": "OK"})
            return replace(proper, accepted=(uuid, str(status)))
    return json_answer(400, {"message": "Expected application/json, an object of uuid and status"})


def misbehave(proper: Answer, earlier: Callable[[str], int]) -> Answer:
    """Return the answer that the uuid of an accepted result asks for, or else the proper one.

    `earlier` returns how many requests of a uuid came before this one.
    """
    if not proper.accepted or not (ask := ASKS.fullmatch(proper.accepted[0])):
        return proper
    (uuid, status), (kind, times, seconds) = proper.accepted, ask.groups()
    if kind == "slow":
        return replace(proper, wait_s=min(int(seconds or 1), 25))  # an HTTP API waits for 30 s
    if (times or kind not in OF_THE_RECORD) and earlier(uuid) >= int(times or 1):
        return proper
    if kind == "page":
        return Answer(200, b"<html><head><title>We'll be back soon</title></head></html>", TYPE_HTML)
    if kind == "other-status":
        other = "Failed" if status == "Success" else "Success"
        return json_answer(200, {"uuid": uuid, "status": other, "message": "OK"})
    headers = [("Retry-After", seconds)] if seconds else []
    return json_answer(int(kind), {"message": f"The uuid asks for {kind}"}, *headers)


def parse(body: bytes) -> object:
    """Return the JSON value; None if the body is not JSON, or an object in it repeats a key."""
    try:
        return cast("object", json.loads(body.decode(), object_pairs_hook=_object))
    except (ValueError, RecursionError):
        return None


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key is repeated")
    return value


def text(value: object, key: str) -> str | None:
    """Return the text at a key of a JSON object; None if there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) else None
