"""Whatever the endpoint does, the credentials reach one host and are written nowhere."""

import io
import json
import logging
import ssl
from collections.abc import Iterator

import pytest
import trustme

from local.endpoint.behaviour import Behaviour, Headers, Reply, Step, answer, echo_headers, json_reply, redirect
from local.endpoint.standin import StandIn
from tests.support.payloads import result
from tests.support.relay import KEY, USER, InProcessRelay


def echo_in_message(status: int) -> Behaviour:
    """An error whose message quotes the credentials, once as they are and once in capitals."""

    def script(_proper: Reply, headers: Headers) -> Iterator[Step]:
        sent = {name.lower(): value for name, value in headers}
        quoted = f"bad key {sent['x-api-key']} of {sent['x-user-id'].upper()}"
        yield json_reply(status, {"uuid": sent["x-api-key"], "status": sent["x-user-id"], "message": quoted}).wire()

    return Behaviour("echo_in_message", script, status)


def test_echoed_credentials_appear_in_no_output(
    relay: InProcessRelay, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the log, the parked queue or a traceback could send results in the customer's name."""
    root, everything = logging.getLogger(), io.StringIO()
    listener = logging.StreamHandler(everything)
    monkeypatch.setattr(root, "handlers", [*root.handlers, listener])
    for name in ("", "botocore", "botocore.parsers", "urllib3.connectionpool", "boto3"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    logging.getLogger("some.library").debug("heard")

    with StandIn(api_key=KEY, user_id=USER, every_call_exists=True) as elsewhere:
        behaviours = {
            "echo-400": echo_headers(400),
            "echo-500": echo_headers(500),
            "message-400": echo_in_message(400),
            "message-404": echo_in_message(404),
            "message-200": echo_in_message(200),
            "message-503": echo_in_message(503),
            "html": answer(200, f"<p>{KEY} {USER}</p>"),
            "reason": answer(429, {"message": "wait"}, {"Retry-After": KEY}),
            **{f"redirect-{status}": redirect(status, elsewhere.url) for status in (301, 302, 303, 307, 308)},
        }
        for uuid, behaviour in behaviours.items():
            relay.endpoint.always(uuid, behaviour)
            relay.invoke_with(relay.send(result(uuid)))
        assert {request.uuid for request in relay.endpoint.requests} >= {"echo-400", "message-404", "html"}
        assert elsewhere.connections == 0, "a redirect was followed"

    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with StandIn(api_key=KEY, user_id=USER, tls=tls, every_call_exists=True) as untrusted:
        relay.configure(WEBHOOK_URL=untrusted.url)
        relay.invoke_with(relay.send(result("tls")))
        assert untrusted.requests == [], "the credentials went to a host that is not trusted"

    parked = relay.parked(2)
    assert {message["given"]["reason"] for message in parked} == {"rejected"}
    written = "\n".join(
        [relay.log.getvalue(), relay.printed.getvalue(), everything.getvalue(), *capfd.readouterr(), json.dumps(parked)]
    )
    for expected in ("heard", "rejected", "unknown_call", "contradicted", "endpoint_misconfigured", "tls_failed"):
        assert expected in written
    for secret in (KEY, USER):
        assert secret.lower() not in written.lower()
