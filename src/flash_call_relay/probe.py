"""Ask the endpoint about a call that it does not know, for an operator."""

from flash_call_relay.budget import AWS_CALL, REPORT_S, Deadline
from flash_call_relay.credentials import CredentialsStore, CredentialsUnavailableError
from flash_call_relay.gate import OUT_OF_TIME
from flash_call_relay.models import FlashCallResult, Reason
from flash_call_relay.settings import Settings
from flash_call_relay.text import printable
from flash_call_relay.webhook import Webhook


def probe(call: str, settings: Settings, credentials: CredentialsStore, *, deadline: Deadline) -> dict[str, object]:
    """Make one attempt; return what the endpoint answered, or why there is no answer.

    It reads the secret again and opens a new connection, because those of the results hide a broken route. It does not
    ask the gate, and the gate does not learn from it.
    """
    if deadline.left_s < AWS_CALL.worst + settings.request_timeout_seconds + REPORT_S:
        return {"reason": OUT_OF_TIME.reason, "detail": OUT_OF_TIME.detail}
    try:
        fresh = credentials.fresh().current()
    except CredentialsUnavailableError as error:
        return {"reason": Reason.CREDENTIALS_UNAVAILABLE, "detail": printable(str(error))}
    attempt = Deadline.after(settings.request_timeout_seconds)
    answer = Webhook(settings).post(FlashCallResult(call, "Failed"), fresh, attempt, kept=False)
    if answer.failure and answer.http_status is None:
        return {"reason": answer.failure, "detail": answer.message}
    is_object = answer.json_object is not None
    return {"http_status": answer.http_status, "is_json_object": is_object, "message": answer.message}
