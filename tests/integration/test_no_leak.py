"""The credentials go to one host and into no output, however the endpoint behaves."""

import json
from collections.abc import Callable, Iterator

from local.endpoint.behaviour import Act, Behaviour, Headers, Reply, Step, answer, echo_headers, json_reply
from tests.support.payloads import result
from tests.support.relay import KEY, USER, InProcessRelay

BROKEN_HEAD = f"HTTP/1.1 400 Bad Request\r\nX-A: b\r\nx-api-key {KEY} x-user-id {USER}\r\nX-C: d\r\n\r\n{{}}".encode()


def echo_in_message(status: int) -> Behaviour:
    """Return an error whose message quotes the key as it is and the user in capitals."""

    def script(_proper: Reply, headers: Headers) -> Iterator[Step]:
        sent = {name.lower(): value for name, value in headers}
        quoted = f"bad key {sent['x-api-key']} of {sent['x-user-id'].upper()}"
        yield json_reply(status, {"uuid": sent["x-api-key"], "status": sent["x-user-id"], "message": quoted}).wire()

    return Behaviour(status, script)


def test_credentials_appear_in_no_output(relay: InProcessRelay, heard: Callable[[], str]) -> None:
    """A reader of the log, the parked queue or a traceback could send results in the customer's name."""
    behaviours = {
        "echo-400": echo_headers(400),
        "message-400": echo_in_message(400),
        "message-404": echo_in_message(404),
        "message-200": echo_in_message(200),
        "html": answer(200, f"<p>{KEY} {USER}</p>"),
        "redirect": answer(307, None, {"Location": f"https://127.0.0.1/{KEY}?{USER}"}),
        # urllib3 logs the part of a head that it cannot read.
        "broken": Behaviour("broken", lambda *_: iter((BROKEN_HEAD, Act.CLOSE))),
        "coding": answer(400, "not JSON", {"Content-Encoding": USER}),
        "wait": answer(429, {"message": "wait"}, {"Retry-After": KEY}),  # the last: it holds what comes next
    }
    relay.endpoint.issue("good")
    relay.invoke_with(relay.send(result("good")))
    for uuid, behaviour in behaviours.items():
        relay.endpoint.always(uuid, behaviour)
        relay.invoke_with(relay.send(result(uuid)))
    assert {request.uuid for request in relay.endpoint.requests} == {"good", *behaviours}
    for uuid, behaviour in behaviours.items():
        relay.endpoint.always(f"probe-{uuid}", behaviour)
    answers = [relay.probe(f"probe-{uuid}") for uuid in behaviours]
    parked = relay.parked(2)
    assert {message["given"]["reason"] for message in parked} == {"rejected"}
    written = heard() + json.dumps([parked, answers])
    reasons = ("rejected", "unknown_call", "contradicted", "endpoint_misconfigured", "throttled")
    for expected in ("this is heard", "result.delivered", "probe.answered", *reasons):
        assert expected in written
    for secret in (KEY, USER):
        assert secret.lower() not in written.lower()
