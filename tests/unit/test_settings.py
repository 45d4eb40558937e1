"""The settings are checked once, and an error names the wrong variable and the values it may have."""

import traceback

import pytest

from flash_call_relay.settings import Settings, SettingsError
from tests.support.template import environment

GOOD = {name: text for name, text in environment().items() if not name.startswith(("POWERTOOLS_", "RES_"))}


def test_valid_settings_are_read() -> None:
    """A template parameter would not have its described effect."""
    settings = Settings.from_environment(GOOD | {"PATH": "/bin"})
    for name, text in GOOD.items():
        value = getattr(settings, name.lower())
        assert value == (int(text) if text.isdigit() else text)


@pytest.mark.parametrize("name", sorted(GOOD.keys() - {"LEDGER_TABLE_NAME", "OUTCOME_BUS_NAME"}))
def test_an_empty_variable_is_named(name: str) -> None:
    """The function would start with half its settings, or not say which one it lacks."""
    with pytest.raises(SettingsError, match=rf"^{name} must be set$"):
        Settings.from_environment(GOOD | {name: ""})


@pytest.mark.parametrize(
    ("name", "texts", "expected"),
    [
        ("FRESH_SECONDS", ("-1", "86401", "ten", "1.0", "1e1", "+1", " 1", "\u0661", "9" * 5000), "0 to 86400"),
        ("REQUEST_TIMEOUT_SECONDS", ("0", "21"), "1 to 20"),
        ("CONFIRMATION", ("Reply", "no"), "reply or http-status"),
    ],
    ids=["no such number", "out of its range", "no such word"],
)
def test_a_wrong_value_is_refused_with_the_values_that_are_allowed(
    name: str, texts: tuple[str, ...], expected: str
) -> None:
    """A typing error would decide how the relay works, or an engineer would not learn which value is wrong."""
    for text in texts:
        with pytest.raises(SettingsError, match=rf"^{name} must be .*{expected}, got ") as error:
            Settings.from_environment(GOOD | {name: text})
        assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "url",
    [
        *("http://api.hunter2.com/webhook", "http://localhost.hunter2.com/", "http://127.0.0.1.hunter2.com/"),
        *("http://127.0.0.1@hunter2.com/", "http://user:hunter2@127.0.0.1/", "https://hunter2@api.betatel.com/webhook"),
        *("http://0.0.0.0/hunter2", "ftp://127.0.0.1/hunter2", "//api.hunter2.com/webhook", "https:///hunter2"),
        *("https://hunter2:port/", "https://hunter2 com/", "https://api.hunter2.com\r\nx: y/", "https://[::1/hunter2"),
        *(" https://api.hunter2.com/", "hunter2"),
    ],
)
def test_a_url_that_could_leak_the_credentials_is_refused(url: str) -> None:
    """Credentials would travel unencrypted or to the wrong host, or a password in the URL would reach the log."""
    with pytest.raises(SettingsError, match=r"^WEBHOOK_URL must be an https URL") as error:
        Settings.from_environment(GOOD | {"WEBHOOK_URL": url})
    assert "hunter2" not in "".join(traceback.format_exception(error.value))
