"""The settings are checked once, and an error names the wrong variable and the values it may have."""

import traceback

import pytest

from flash_call_relay.settings import Settings, SettingsError
from tests.support.template import defaults, environment

GOOD = {name: text for name, text in environment(defaults()).items() if not name.startswith(("POWERTOOLS_", "RES_"))}
BOUNDS = [
    ("MAXIMUM_CONCURRENCY", 0, 1000),
    ("CONNECTIONS_PER_FUNCTION", 1, 100),
    ("RATE_LIMIT_PER_SECOND", 0, 10_000),
    ("REQUEST_TIMEOUT_SECONDS", 1, 20),
    ("RETRY_BASE_SECONDS", 1, 900),
    ("RETRY_CAP_SECONDS", 1, 3600),
    ("FRESH_SECONDS", 0, 86_400),
    ("FRESH_RETRY_CAP_SECONDS", 1, 3600),
    ("RETRY_HORIZON_SECONDS", 1, 777_600),
    ("MAX_RECEIVE_COUNT", 1, 1000),
    ("VISIBILITY_TIMEOUT_SECONDS", 0, 43_200),
    ("UNKNOWN_CALL_GRACE_SECONDS", 0, 86_400),
]


def test_valid_settings_are_read() -> None:
    """A template parameter would not have its described effect."""
    settings = Settings.from_environment(GOOD | {"PATH": "/bin"})
    for name, text in GOOD.items():
        value = getattr(settings, name.lower())
        assert value == (int(text) if text.isdigit() else text)


@pytest.mark.parametrize("name", sorted(GOOD.keys() - {"LEDGER_TABLE_NAME", "OUTCOME_BUS_NAME"}))
def test_a_missing_or_empty_variable_is_named(name: str) -> None:
    """The function would start with half its settings, or not say which one it lacks."""
    for environ in (GOOD | {name: ""}, {key: text for key, text in GOOD.items() if key != name}):
        with pytest.raises(SettingsError, match=rf"^{name} must be set$"):
            Settings.from_environment(environ)


@pytest.mark.parametrize(("name", "least", "most"), BOUNDS)
def test_a_number_is_accepted_from_its_least_to_its_most(name: str, least: int, most: int) -> None:
    """The function would refuse a value that the template allows, or start with a nonsensical time-out or delay."""
    for number in (least, most):
        assert getattr(Settings.from_environment(GOOD | {name: str(number)}), name.lower()) == number
    for number in (least - 1, most + 1):
        with pytest.raises(SettingsError, match=rf"^{name} must be a whole number from {least} to {most}, got "):
            Settings.from_environment(GOOD | {name: str(number)})


@pytest.mark.parametrize("text", ["ten", "1.0", "1e1", "+1", " 1", "0x1", "\u0661", "\xb2", "9" * 5000])
def test_a_number_has_digits_only(text: str) -> None:
    """An engineer would not learn which value is wrong, or Python would read it in its own way."""
    with pytest.raises(SettingsError, match=r"^FRESH_SECONDS must be a whole number from 0 to 86400, got ") as error:
        Settings.from_environment(GOOD | {"FRESH_SECONDS": text})
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(("text", "allowed"), [("reply", True), ("http-status", True), ("Reply", False), ("no", False)])
def test_confirmation_is_reply_or_http_status_and_nothing_else(text: str, allowed: bool) -> None:  # noqa: FBT001
    """A typing error would decide which results count as delivered."""
    if allowed:
        assert Settings.from_environment(GOOD | {"CONFIRMATION": text}).confirmation == text
    else:
        with pytest.raises(SettingsError, match=r"^CONFIRMATION must be reply or http-status"):
            Settings.from_environment(GOOD | {"CONFIRMATION": text})


@pytest.mark.parametrize(
    "url",
    [
        GOOD["WEBHOOK_URL"],
        "https://api.betatel.com",
        "HTTPS://API.betatel.com:8443/webhook?tenant=a",
        "http://127.0.0.1:8787/webhook",
        "http://localhost:8787/webhook",
        "http://[::1]:8787/webhook",
    ],
)
def test_an_https_or_loopback_url_is_accepted(url: str) -> None:
    """The relay could not use the documented endpoint, or a stand-in on this machine."""
    assert Settings.from_environment(GOOD | {"WEBHOOK_URL": url}).webhook_url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://api.hunter2.com/webhook",
        "http://localhost.hunter2.com/",
        "http://127.0.0.1@hunter2.com/",
        "http://127.0.0.1.hunter2.com/",
        "http://0.0.0.0/hunter2",
        "http://user:hunter2@127.0.0.1/",
        "https://hunter2@api.betatel.com/webhook",
        "ftp://127.0.0.1/hunter2",
        "//api.hunter2.com/webhook",
        "https:///hunter2",
        "https://hunter2:port/",
        "https://hunter2 com/",
        "https://api.hunter2.com\r\nx: y/",
        "https://[::1/hunter2",
        " https://api.hunter2.com/",
        "hunter2",
    ],
)
def test_a_url_that_could_leak_the_credentials_is_refused(url: str) -> None:
    """Credentials would travel unencrypted or to the wrong host, or a password in the URL would reach the log."""
    with pytest.raises(SettingsError, match=r"^WEBHOOK_URL must be an https URL") as error:
        Settings.from_environment(GOOD | {"WEBHOOK_URL": url})
    assert "hunter2" not in "".join(traceback.format_exception(error.value))
