"""Hand one target to libFuzzer: `python -m tests.fuzz.one TARGET [libFuzzer's arguments]`."""

import sys

import atheris

# What reads bytes, and is Python: coverage is told of no other code.
with atheris.instrument_imports(include=["flash_call_relay", "email", "http.client", "urllib3"]):
    from tests.fuzz.targets import TARGETS

target, *arguments = sys.argv[1:]
atheris.Setup([sys.argv[0], *arguments], TARGETS[target])
atheris.Fuzz()  # which ends this process
