"""`pipx install .` installs the operators' command without the rest of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
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
    (home,) = metadata.distributions(path=[str(installed)])
    needed, known = [one for one in home.requires or () if "extra ==" not in one], set[str]()
    while needed:
        (name,) = re.findall(r"^[\w.-]+", needed.pop())
        if normal(name) not in known:
            known.add(normal(name))
            needed += [one for one in metadata.requires(name) or () if "extra ==" not in one]
    # What is there before, pip's own hooks have loaded.
    script = "import sys; before = set(sys.modules); import ops.cli; print(*(sys.modules.keys() - before))"
    loaded = {name.partition(".")[0] for name in run(installed, sys.executable, "-P", "-c", script).split()}
    homes = {name: set(map(normal, metadata.packages_distributions().get(name, ()))) for name in loaded}
    assert "boto3" in known & loaded
    assert [
        name for name in loaded - {"ops", "sandbox", "flash_call_relay"} if homes[name] and not homes[name] & known
    ] == []


def normal(name: str) -> str:
    """Return the name of a distribution in its usual form."""
    return name.lower().replace("_", "-")
