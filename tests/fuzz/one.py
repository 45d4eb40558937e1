"""Run libFuzzer on one target: `python -m tests.fuzz.one TARGET [libFuzzer's arguments]`."""

import sys

import atheris

# Measure the coverage of the Python code that reads bytes, and of no other.
with atheris.instrument_imports(include=["flash_call_relay", "urllib3"]):
    from tests.fuzz.targets import TARGETS

target, *arguments = sys.argv[1:]
atheris.Setup([sys.argv[0], *arguments], TARGETS[target])
atheris.Fuzz()  # ends this process
