"""The environment is checked once, and what is wrong with it is said so that it can be put right."""

import traceback

import pytest

from flash_call_relay.settings import Settings, SettingsError

GOOD = {
    "WEBHOOK_URL": "https://api.betatel.com/api/v1/connect-hub/call/flash/webhook",
    "CREDENTIALS_SECRET_ARN": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:relay-a1b2c3",
    "RESULT_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/results",
    "PARKED_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/parked",
    "CONFIRMATION": "reply",
    "CONNECTIONS_PER_FUNCTION": "10",
    "REQUEST_TIMEOUT_SECONDS": "10",
    "RETRY_BASE_SECONDS": "10",
    "RETRY_CAP_SECONDS": "900",
    "FRESH_SECONDS": "3600",
    "FRESH_RETRY_CAP_SECONDS": "60",
    "RETRY_HORIZON_SECONDS": "86400",
    "MAX_RECEIVE_COUNT": "300",
    "VISIBILITY_TIMEOUT_SECONDS": "400",
    "LEDGER_TABLE_NAME": "ledger",
    "UNKNOWN_CALL_GRACE_SECONDS": "900",
}
BOUNDS = [
    ("CONNECTIONS_PER_FUNCTION", 1, 100),
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
    """A parameter of the template would not have the effect that it describes."""
    settings = Settings.from_environment(GOOD | {"PATH": "/bin"})
    for name, text in GOOD.items():
        value = getattr(settings, name.lower())
        assert value == (int(text) if text.isdigit() else text)


@pytest.mark.parametrize("name", sorted(GOOD.keys() - {"LEDGER_TABLE_NAME"}))
@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_missing_or_empty_variable_is_named(name: str, how: str) -> None:
    """A function with half its settings would start, or would not say what it lacks."""
    environ = {key: text for key, text in GOOD.items() if key != name or how == "empty"}
    with pytest.raises(SettingsError, match=rf"^{name} must be set$"):
        Settings.from_environment(environ | ({name: ""} if how == "empty" else {}))


@pytest.mark.parametrize(("name", "least", "most"), BOUNDS)
def test_a_number_at_its_documented_bounds_is_accepted(name: str, least: int, most: int) -> None:
    """A value that the template takes would keep the function from starting."""
    for number in (least, most):
        assert getattr(Settings.from_environment(GOOD | {name: str(number)}), name.lower()) == number


@pytest.mark.parametrize(("name", "least", "most"), BOUNDS)
@pytest.mark.parametrize(
    "text", ["below", "above", "ten", "1.0", "1e1", "-1", "+1", " 1", "0x1", "\u0661", "\xb2", "9" * 5000]
)
def test_a_number_out_of_range_is_refused(name: str, least: int, most: int, text: str) -> None:
    """A nonsensical time-out or delay would be found out in production."""
    value = {"below": str(least - 1), "above": str(most + 1)}.get(text, text)
    with pytest.raises(SettingsError, match=rf"^{name} must be a whole number from {least} to {most}, got ") as error:
        Settings.from_environment(GOOD | {name: value})
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(("text", "allowed"), [("reply", True), ("http-status", True), ("Reply", False), ("no", False)])
def test_confirmation_is_reply_or_http_status_and_nothing_else(text: str, allowed: bool) -> None:  # noqa: FBT001
    """A typing error would decide what counts as delivered."""
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
        "http://127.8.9.10/",
        "http://localhost:8787/webhook",
        "http://[::1]:8787/webhook",
    ],
)
def test_an_https_or_loopback_url_is_accepted(url: str) -> None:
    """The documented endpoint, or a stand-in on this machine, could not be used."""
    assert Settings.from_environment(GOOD | {"WEBHOOK_URL": url}).webhook_url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://api.hunter2.com/webhook",
        "http://localhost.hunter2.com/",
        "http://127.0.0.1@hunter2.com/",
        "http://127.0.0.1.hunter2.com/",
        "http://10.0.0.1/hunter2",
        "http://0.0.0.0/hunter2",
        "http://user:hunter2@127.0.0.1/",
        "https://user:hunter2@api.betatel.com/webhook",
        "https://hunter2@api.betatel.com/webhook",
        "ftp://127.0.0.1/hunter2",
        "file:///hunter2",
        "//api.hunter2.com/webhook",
        "api.hunter2.com/webhook",
        "https:///hunter2",
        "https:hunter2",
        "https://hunter2:port/",
        "https://hunter2:99999/",
        "https://hunter2 com/",
        "https://api.hunter2.com\r\nx: y/",
        "https://[::1/hunter2",
        " https://api.hunter2.com/",
        "hunter2",
    ],
)
def test_a_url_that_could_leak_the_credentials_is_refused(url: str) -> None:
    """Credentials would go out in the clear or to the wrong host; or a password in the URL would reach the log."""
    with pytest.raises(SettingsError, match=r"^WEBHOOK_URL must be an https URL") as error:
        Settings.from_environment(GOOD | {"WEBHOOK_URL": url})
    assert "hunter2" not in "".join(traceback.format_exception(error.value))
