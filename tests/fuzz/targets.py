"""The promises about input from outside, each as a function of any bytes.

A broken promise raises AssertionError; any other exception is a bug. `tests/unit/test_fuzz_corpus.py` runs them on the
saved cases of `tests/fuzz/corpus/` and on random inputs; `make fuzz` runs them on inputs led by coverage.
"""

import contextlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flash_call_relay import events, policy
from flash_call_relay import reply as replies
from flash_call_relay.credentials import Credentials
from flash_call_relay.models import OTHER, FlashCallResult, NoResult
from flash_call_relay.text import printable
from tests.support.template import default_settings

CORPUS = Path(__file__).parent / "corpus"
NOW = 1_800_000_000.0
RESULT = FlashCallResult("01JV5V54KPYK9GB29265EQRZ2P", "Success")
# The second pair looks like other characters made printable.
CREDENTIALS = (
    Credentials("key-4f1c-hunter2", "user-93aa-hunter2"),
    Credentials("key  \\x0a\\xe9 4f1c", "a user of ours"),
)
SETTINGS = default_settings()
WORD = re.compile(rb'"(?:\\.|[^"\\])*"|[\w.+-]+|.', re.DOTALL)


def cases(target: str) -> dict[str, bytes]:
    """Return the saved inputs of a target, by name."""
    return {name: to_bytes(text) for name, text in json.loads((CORPUS / f"{target}.json").read_text()).items()}


def words(target: str) -> list[bytes]:
    """Return the words of a target's saved inputs, so that new inputs contain them."""
    found = {word for data in cases(target).values() for word in WORD.findall(data)}
    return sorted(word for word in found if len(word) <= 64)


def save(target: str, name: str, data: bytes) -> None:
    """Save an input of a target under a name."""
    saved = {known: to_text(old) for known, old in cases(target).items()} | {name: to_text(data)}
    (CORPUS / f"{target}.json").write_text(json.dumps(saved, indent=0) + "\n")


def to_bytes(text: str) -> bytes:
    """Return the bytes of a text made by `to_text`."""
    return text.encode("utf-8", "surrogateescape")


def to_text(data: bytes) -> str:
    """Return bytes as text; bytes that are not UTF-8 become lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def body(data: bytes) -> None:
    """Check that a message's body is a result that BetaTel accepts, or has a short fault, and raises nothing.

    The result is the one that the JSON names. A JSON object without repeated keys is a result if its uuid has 1 to 128
    visible ASCII characters and its status is documented.
    """
    text = to_text(data)
    content = events.parse_body(text)
    _check_content(content)
    if isinstance(content, FlashCallResult):
        assert _named(json.loads(text)) == content, "another result than the body names"
    with contextlib.suppress(ValueError, RecursionError):
        once = json.dumps(json.loads(text))  # the same without repeated keys
        read, expected = events.parse_body(once), _named(json.loads(once))
        assert read == expected if expected else isinstance(read, NoResult), "refused or taken wrongly"


def event(data: bytes) -> None:
    """Check that a trigger event becomes one record per message, each with its own body, or a short error.

    A direct event reads the same when it comes back from the queue. A probe has no records, and names no real call.
    """
    try:
        document = json.loads(to_text(data))
    except (ValueError, RecursionError):
        return
    try:
        records = events.read(document, now=NOW)
    except events.UnsupportedEventError as refused:
        words = str(refused)
        assert 1 <= len(words) <= 512, "an endless error"
        if call := events.probed_call(document):
            assert re.fullmatch("probe-[!-~]{0,122}", call), "a probe of a real call"
            assert document == {"probe": call}, "a probe with other keys"
        return
    assert not events.probed_call(document), "a probe with records"
    for record in records:
        _check_content(record.content)
        again = events.parse_body(record.body)
        # JSON makes one character of two surrogates side by side, and the sentence about a fault may quote it.
        faults = isinstance(record.content, NoResult) and isinstance(again, NoResult)
        assert record.content == again or (faults and "\\ud" in record.body), "another content than the body's"
        assert math.isfinite(record.sent_at), "no age"
    if not records or records[0].receipt_handle is not None:
        sent = [(one["messageId"], one["body"]) for one in document["Records"]]
        assert [(record.message_id, record.body) for record in records] == sent, "a message lost or changed"


def reply(data: bytes) -> None:
    """Check that a reply confirms only by a JSON object that names neither another uuid nor the other status.

    The message taken from it is short, printable and holds no six characters of the credentials in a row.
    """
    confirmed = policy.judge(SETTINGS, RESULT, replies.parse(200, {}, data, CREDENTIALS[0])).reason is None
    pairs = _pairs(data)
    assert not (confirmed and pairs is None), "confirmed without a JSON object"
    for key, value in pairs or ():
        if not (confirmed and isinstance(value, str)):
            continue
        assert key != "uuid" or re.fullmatch(RESULT.uuid, value, re.IGNORECASE | re.ASCII), "another uuid confirms"
        assert key != "status" or value.lower() != OTHER[RESULT.status].lower(), "the other status confirms"
    for credentials in CREDENTIALS:
        said = replies.parse(429, {"Retry-After": to_text(data)}, data, credentials).message
        assert re.fullmatch("[ -~]{0,120}", said), "words that are not printable"
        for secret in (credentials.api_key.lower(), credentials.user_id.lower()):
            runs = [secret[start : start + 6] for start in range(len(secret) - 5)]
            assert not any(run in said.lower() for run in runs), "a part of the credentials is shown"


def retry_after(data: bytes) -> None:
    """Check that any `Retry-After` asks for 0 to 900 seconds or nothing, and a number for its own value."""
    text = to_text(data)
    seconds = replies.retry_after_s(text, NOW)
    assert seconds is None or 0 <= seconds <= replies.MAX_RETRY_AFTER_S
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        assert seconds == min(float(text), replies.MAX_RETRY_AFTER_S), "another number"


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function for function in (body, event, reply, retry_after)
}


def _check_content(content: FlashCallResult | NoResult) -> None:
    if isinstance(content, FlashCallResult):
        assert re.fullmatch("[!-~]{1,128}", content.uuid), "a uuid that BetaTel does not accept"
        assert content.status in OTHER
    else:
        assert 1 <= len(content.fault) <= 640, "an endless fault"
        assert re.fullmatch("[ -~]{1,256}", printable(content.fault)), "a fault that is not printable"


def _named(document: Any) -> FlashCallResult | None:
    """Return the result that a JSON document is, by a rule independent of `events`; None if it is none."""
    if isinstance(document, dict):
        if {"detail", "detail-type"} <= document.keys():
            document = document["detail"]
        elif {"TopicArn", "Message"} <= document.keys():
            return None
    match document:
        case {"uuid": str(uuid), "status": "Success" | "Failed" as status} if re.fullmatch("[!-~]{1,128}", uuid):
            return FlashCallResult(uuid, status)
    return None


def _pairs(data: bytes) -> list[tuple[str, Any]] | None:
    """Return the members of a JSON object, repeated ones too; None for anything else."""
    try:
        document = json.loads(data, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return None
    return list(document) if isinstance(document, tuple) else None
