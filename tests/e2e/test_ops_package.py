"""`pipx install .` installs the operators' command without the rest of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flash_call_relay import __version__
from local import ROOT

SHIPPED = ("src", "ops", "sandbox", "pyproject.toml", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a copy of the sources, so that the build leaves nothing in the checkout."""
    checkout, target = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("installed")
    for name in SHIPPED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, checkout)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps")
    done = subprocess.run([*pip, "--target", target, checkout], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run(installed: Path, *command: str | Path) -> str:
    """Run a command that imports our modules only from there; return its output."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=installed.parent, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_installed_command_starts(installed: Path) -> None:
    """An operator would install a command that does not start."""
    command = installed / "bin" / "flash-call-relay"
    assert run(installed, command, "--version") == f"{__version__}\n"
    for start in ((command,), (sys.executable, "-P", "-m", "ops")):
        said = run(installed, *start, "parked", "replay", "--help")
        assert said.startswith("Usage: flash-call-relay parked replay [OPTIONS]\n")


def test_the_installed_command_imports_only_its_requirements(installed: Path) -> None:
    """The command would end in an ImportError on a machine with only its requirements."""
    (metadata,) = installed.glob("*.dist-info/METADATA")
    required = re.findall(r"^Requires-Dist: (.*)$", metadata.read_text(), re.MULTILINE)
    lines = (ROOT / "ops" / "requirements.txt").read_text().splitlines()
    optional = {line for line in required if "extra ==" in line}
    required = [line for line in required if line not in optional]
    assert sorted(required) == sorted(line for line in lines if not line.startswith("#"))
    pinned = (ROOT / "local" / "requirements" / "dev.txt").read_text().splitlines()
    assert [line.partition(";")[0] in pinned for line in optional] == [True]  # plotly, for `prove --report`
    script = f"""
import re, sys
from importlib import metadata
before = set(sys.modules)  # what pip's own hooks load
import ops.cli
assert ops.cli.__file__.startswith({str(installed)!r}), ops.cli.__file__

needed, known = {required!r}, set()
while needed:
    name = re.match(r"[\\w.-]+", needed.pop())[0].lower().replace("_", "-")
    if name not in known:
        known.add(name)
        needed += [one for one in metadata.requires(name) or () if "extra ==" not in one]
homes = metadata.packages_distributions()
ours = {{"ops", "sandbox", "flash_call_relay"}}
for module in {{name.partition(".")[0] for name in sys.modules.keys() - before}} - ours:
    found = {{home.lower().replace("_", "-") for home in homes.get(module, ())}}
    if found and not found & known:
        print(module)
"""
    assert run(installed, sys.executable, "-P", "-c", script) == ""
