"""Read and write text that others see or sent: strict JSON, printable details, names of errors."""

import json
from collections import Counter
from collections.abc import Collection
from typing import Any


class InvalidJSONError(ValueError):
    """The text is not strict JSON. The message continues "the text ..." and quotes at most a repeated key."""


def decode_json(text: str | bytes, unique: Collection[str] = ()) -> Any:
    """Decode JSON in which no object repeats a key; if `unique` names keys, no object repeats one of these.

    Raises:
        InvalidJSONError: the text is something else, has a huge number, or is nested too deeply.
    """

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        times = Counter(key for key, _ in pairs if not unique or key in unique)
        for key in [key for key, count in times.items() if count > 1]:  # its value is ambiguous
            raise InvalidJSONError(f"gives {printable(key, 40)} more than once")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=members)
    except InvalidJSONError:
        raise
    except json.JSONDecodeError as error:  # `from None`: it carries the whole text
        raise InvalidJSONError(f"is not valid JSON ({error.msg} at character {error.pos})") from None
    except (ValueError, RecursionError):
        raise InvalidJSONError("is not valid JSON (too large, too deep, or not Unicode)") from None


def kind(value: object) -> str:
    """Return what a value of a JSON document is, in words."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return next((name for kind, name in kinds.items() if isinstance(value, kind)), "a number")


def printable(text: str, limit: int = 256) -> str:
    """Return text as 1 to `limit` printable ASCII characters, as SQS attributes and log lines want it."""
    ascii_text = text.encode("ascii", "backslashreplace").decode("ascii")
    clean = "".join(c if " " <= c <= "~" else " " for c in ascii_text).strip() or "-"
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


def error_code(error: BaseException) -> str:
    """Return AWS's code for an error of one of its services, or the exception's name if AWS sent no reply."""
    reply = getattr(error, "response", None) or {}  # botocore sets None where it got no reply
    return str(reply.get("Error", {}).get("Code", type(error).__name__))
