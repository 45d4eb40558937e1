"""What a reply says: its message without the credentials, and the wait that it asks for."""

import json
import time
from email.utils import formatdate

import pytest

from flash_call_relay.credentials import Credentials
from flash_call_relay.reply import parse, retry_after_s

NOW = 1_800_000_000.0
KEY, USER = "key-4f1c-hunter2", "user-93aa-hunter2"
CREDENTIALS = Credentials(KEY, USER)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!doctype html><HTML><head><TITLE lang=en>\n Sign in\n</TITLE></head><p>No", "Sign in"),
        ("<title>" + "y" * 200, "y" * 117 + "..."),
        *((page, "") for page in ("<title> </title>", "<title " * 9000)),
    ],
)
def test_a_page_is_told_by_its_title(page: str, message: str) -> None:
    """An engineer would not know what answers instead of the API, or would find the key in the log."""
    assert parse(200, {}, page.encode(), CREDENTIALS).message == message


def test_a_long_message_is_searched_for_a_long_key_in_time() -> None:
    """A long error message would stop all threads for seconds, and the function could exceed its time-out."""
    long_key = "".join(f"key{number}" for number in range(1000, 2500))
    began = time.thread_time()  # of this thread's work only, however busy the machine is
    said = parse(400, {}, json.dumps({"message": "key" * 20_000}).encode(), Credentials(long_key, USER))
    assert said.message.startswith("keykey")
    assert time.thread_time() - began < 1


def http_date(offset_s: float) -> str:
    """Return the HTTP date `offset_s` seconds from now."""
    return formatdate(NOW + offset_s, usegmt=True)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *((value, None) for value in (None, "", "-1", "1e3", "nan", "soon", "٣", "Fri, 99 Foo 2026 99:99:99 GMT")),
        *(("0", 0), (" 30 ", 30), ("120.5", 120.5), ("900.5", 900), ("9" * 5000, 900)),
        ("30, 60", 30),  # two headers
        *((http_date(45), 45), (http_date(5000), 900), (http_date(-45), 0)),
    ],
)
def test_retry_after_is_read_as_seconds_and_as_a_date(value: str | None, seconds: float | None) -> None:
    """The relay would ignore the endpoint's request to wait, or obey nonsense in the header."""
    assert retry_after_s(value, NOW) == seconds
