"""What `doctor` makes of replies that only AWS gives."""

import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest
import trustme
from botocore import xform_name
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from flash_call_relay.webhook import tls_context
from local import ROOT
from ops import doctor, intake
from ops.doctor import Finding
from ops.stack import Depth

SERVICES = ("cloudformation", "lambda", "logs", "events", "sqs", "cloudwatch", "secretsmanager", "dynamodb")
KEY = "arn:aws:kms:eu-central-1:123456789012:key/0b5d4a9e"


@dataclass
class Stack:
    """A stack whose services answer as they are told."""

    replies: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    hidden: int = 0
    name: str = "a-stack"

    def client(self, _service: str) -> Any:
        """Return what answers each operation."""
        return SimpleNamespace(**{name: self._answer(reply) for name, reply in self.replies.items()})

    @staticmethod
    def _answer(reply: Any) -> Callable[..., Any]:
        def answer(**_: Any) -> Any:
            if isinstance(reply, Exception):
                raise reply
            return reply

        return answer

    def output(self, name: str) -> str:
        """Return something."""
        return name

    def depth(self, _output: str) -> Depth:
        """Return what waits."""
        return Depth(visible=0, hidden=self.hidden, delayed=0, retention_s=864_000)


def only(findings: Iterator[Finding]) -> Finding:
    """Return the one finding."""
    (one,) = findings
    return one


@pytest.mark.parametrize(
    ("maximum", "unreserved", "level"),
    [
        ("10", 1000, "ok"),
        ("10", 10, "ok"),
        ("10", 9, "note"),
        ("0", 1000, "ok"),
        ("0", 1, "note"),
        ("1000", 900, "note"),
    ],
)
def test_a_small_quota_of_concurrency_is_noted(maximum: str, unreserved: int, level: str) -> None:
    """In a new account the relay would be throttled, and nobody could see why."""
    limits = {"ConcurrentExecutions": unreserved, "UnreservedConcurrentExecutions": unreserved}
    stack: Any = Stack({"get_account_settings": {"AccountLimit": limits}}, {"MaximumConcurrency": maximum})
    found = only(doctor._concurrency(stack))
    assert found.level == level
    assert f"{unreserved:,} invocations" in found.says
    assert ("MaximumConcurrency" in found.next_step) == (level == "note")


@pytest.mark.parametrize(
    ("reason", "level", "says"),
    [
        ("User action", "note", "the relay is paused"),
        ("USER_INITIATED", "note", "the relay is paused"),
        ("Lambda internal error", "WRONG", "AWS has stopped the event source mapping (Lambda internal error)"),
        (None, "WRONG", "AWS has stopped the event source mapping (no reason given)"),
    ],
)
def test_a_pause_is_told_from_a_mapping_that_aws_has_stopped(reason: str | None, level: str, says: str) -> None:
    """A deliberate pause would be reported as a fault, or a fault taken for a pause."""
    mapping = {"State": "Disabled", "StateTransitionReason": reason}
    found = only(doctor._intake(Stack({"get_event_source_mapping": mapping})))  # type: ignore[arg-type]
    assert (found.level, found.next_step) == (level, "flash-call-relay --stack a-stack resume")
    assert found.says.startswith(says)


@pytest.mark.parametrize("busy", ["ResourceInUseException", "ResourceConflictException"])
def test_a_mapping_that_is_being_changed_is_waited_for(monkeypatch: pytest.MonkeyPatch, busy: str) -> None:
    """A pause during a deployment, or twice in a row, would end with AWS's error, and the relay go on."""
    monkeypatch.setattr(intake, "GLANCE_S", 0)
    exceptions = {
        name: type(name, (Exception,), {}) for name in ("ResourceInUseException", "ResourceConflictException")
    }
    states, refusals = iter(["Updating", "Enabled", "Enabled", "Disabled"]), iter([exceptions[busy], None])

    def update(**_: object) -> None:
        if refusal := next(refusals):
            raise refusal

    client = SimpleNamespace(
        get_event_source_mapping=lambda **_: {"State": next(states)},
        update_event_source_mapping=update,
        exceptions=SimpleNamespace(**exceptions),
    )
    stack: Any = SimpleNamespace(client=lambda _: client, output=lambda name: name)
    intake._switch(stack, enabled=False)
    assert next(states, None) is None


@pytest.mark.parametrize(("hidden", "level"), [(99_999, "ok"), (100_000, "note")])
def test_a_queue_with_nearly_all_in_flight_is_noted(hidden: int, level: str) -> None:
    """New results would not be received, and nobody would know that it is a limit of SQS's."""
    found = only(doctor._queue(Stack(hidden=hidden), "ResultQueueUrl", ""))  # type: ignore[arg-type]
    assert found.level == level
    assert ("120,000" in found.says) == (level == "note")


def test_a_key_of_ones_own_needs_a_permission() -> None:
    """Who may read the secret, but not use its key, would not know what to ask for."""
    refused = ClientError({"Error": {"Code": "AccessDeniedException", "Message": "Access to KMS"}}, "GetSecretValue")
    stack: Any = Stack({"get_secret_value": refused}, {"CredentialsKmsKeyArn": KEY})
    found = only(doctor._Secret(stack).check())
    assert found.level == "note"
    assert f"kms:Decrypt with {KEY}" in found.next_step


def test_the_policy_to_paste_names_actions_that_exist() -> None:
    """Who pastes it would be refused by IAM, or by the command that needs what it lacks."""
    (text,) = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "operating.md").read_text(), re.DOTALL)
    allowed = {
        action
        for statement in json.loads(text)["Statement"]
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    models = botocore.session.get_session()
    for service, action in (one.split(":") for one in allowed):
        assert action in models.get_service_model(service).operation_names, action
    source = "\n".join(path.read_text() for path in (ROOT / "ops").glob("*.py"))
    called = set(re.findall(r"(?<!socket)\.([a-z]+(?:_[a-z]+)+)\(", source))
    wanted = {xform_name(action.split(":")[1]) for action in allowed}
    everything = {
        xform_name(name) for service in SERVICES for name in models.get_service_model(service).operation_names
    }
    asked = {name.removesuffix("_batch") for name in called & everything}  # IAM knows no action for a batch
    assert asked | {"list_stack_resources", "decrypt"} == wanted  # by a paginator, and by Secrets Manager


def lax_certificate() -> tuple[ssl.SSLContext, bytes]:
    """Return a server's certificate by an authority without a key identifier, and that authority."""
    root = trustme.CA()
    issuer = x509.load_pem_x509_certificate(root.cert_pem.bytes())
    leaf = x509.load_pem_x509_certificate(root.issue_cert("127.0.0.1").cert_chain_pems[0].bytes())
    server = trustme.CA()  # for a key of its own
    key = server._private_key
    builder = x509.CertificateBuilder(
        issuer.subject, leaf.subject, key.public_key(), 7, leaf.not_valid_before_utc, leaf.not_valid_after_utc
    )
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    certificate = builder.add_extension(names.value, critical=False).sign(root._private_key, hashes.SHA256())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pems = trustme.LeafCert(server.private_key_pem.bytes(), certificate.public_bytes(Encoding.PEM), [])
    pems.configure_cert(context)
    return context, root.cert_pem.bytes()


@pytest.mark.parametrize("strict", [False, True])
def test_certificates_are_checked_as_by_the_functions_python(strict: bool) -> None:  # noqa: FBT001
    """A certificate would be found good on an older Python here, and be refused by the function."""
    context, authority = lax_certificate()
    trusting = tls_context() if strict else ssl.create_default_context()
    if not strict:
        trusting.verify_flags &= ~ssl.VERIFY_X509_STRICT
    trusting.load_verify_locations(cadata=authority.decode())
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as one, suppress(OSError):
                context.wrap_socket(one, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        with socket.create_connection(listener.getsockname()) as connection:
            if strict:
                with pytest.raises(ssl.SSLCertVerificationError, match="Authority Key Identifier"):
                    trusting.wrap_socket(connection, server_hostname="127.0.0.1")
            else:
                trusting.wrap_socket(connection, server_hostname="127.0.0.1").close()
        thread.join()
