"""Wrong options of the local commands get one sentence."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from local.bench.__main__ import main as bench
from local.demo.__main__ import main as demo
from local.soak.__main__ import main as soak
from tests.fuzz.__main__ import main as fuzz

FILE = str(Path(__file__))


@pytest.mark.parametrize(
    ("main", "words", "says"),
    [
        (soak, ["--results", "0"], "--results: expected a whole number of at least 300, got '0'"),
        (soak, ["--results", "many"], "--results: expected a whole number of at least 300, got 'many'"),
        (soak, ["--seed"], "--seed: expected one argument"),
        (demo, ["--results", "-1"], "--results: expected a whole number of at least 40, got '-1'"),
        (bench, ["--rounds", "0"], "--rounds: expected a whole number of at least 1, got '0'"),
        (bench, ["--nope"], "unrecognized arguments: --nope; see `python -m local.bench --help`."),
        (fuzz, ["--seconds", "0"], "--seconds: expected a whole number of at least 1, got '0'"),
        (fuzz, ["bodies"], "target: expected one of body, event, reply, retry_after, got 'bodies'"),
    ],
)
def test_a_wrong_option_gets_one_sentence(
    main: Callable[[], object],
    words: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A command would end in a traceback, or start a run of minutes that cannot work."""
    monkeypatch.setattr(sys, "argv", ["program", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert (ended.value.code, captured.out) == (2, "")
    assert captured.err.startswith(says)
    assert captured.err.count("\n") == 1
