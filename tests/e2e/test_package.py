"""The package that `sam build` makes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from local import ROOT, TOOLS
from local.emulator.runtime import Runtime
from tests.support.deployed import DeployedRelay

SIZE_LIMIT_MB = 12
URL_OF_EACH_SERVICE = """
import boto3
for name, call in {"sqs": "list_queues", "secretsmanager": "list_secrets", "dynamodb": "list_tables",
                   "events": "list_rules"}.items():
    print(boto3.client(name).generate_presigned_url(call).partition("?")[0])
"""
PYTHON = TOOLS / "sam" / "bin" / "python"  # The `package` fixture builds with the Python of TOOLS / "dev".


def run(package: Path, script: str, **environment: str) -> str:
    """Run a script on the package alone: without site-packages no other library is found; -B leaves it unchanged."""
    command = [sys.executable, "-I", "-S", "-B", "-c", f"import sys; sys.path.insert(0, {str(package)!r}){script}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_imports_without_other_libraries_and_is_small(package: Path) -> None:
    """The function would not start on AWS, where its package is all it has, or it would start slowly."""
    assert run(package, "; import flash_call_relay.handler as h; print(h.__file__)").startswith(str(package))
    size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert size < SIZE_LIMIT_MB * 1024 * 1024


@pytest.mark.parametrize(
    ("region", "hosts"),
    [
        ("us-east-1", "sqs-fips secretsmanager-fips dynamodb-fips events-fips"),
        ("us-gov-west-1", "sqs secretsmanager-fips dynamodb events"),  # three have FIPS at their usual names
    ],
)
def test_the_package_resolves_fips_endpoints(package: Path, region: str, hosts: str) -> None:
    """In an account that demands FIPS the function would call the usual endpoints, or not start."""
    environment = {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_DEFAULT_REGION": region, "AWS_CONFIG_FILE": os.devnull}
    environment |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
    asked = run(package, URL_OF_EACH_SERVICE, **environment)
    assert asked.split() == [f"https://{host}.{region}.amazonaws.com/" for host in hosts.split()]


def test_each_build_makes_the_same_package_and_bytecode_is_optional(package: Path, tmp_path: Path) -> None:
    """`sam deploy` would update an unchanged function, and nobody could check a package against its sources."""
    again = tmp_path / "a $(package)"
    done = build(again, "VERSION_PYTHON=")
    assert "no bytecode" in done.stderr
    assert {Path(name).suffix for name in differing(again, package)} <= {".pyc"}  # none without the function's Python
    build(again, "--old-file=sources")  # Adds the bytecode to the same sources.
    assert differing(again, package) == []


def test_the_runtime_starts_from_the_packages_bytecode(relay: DeployedRelay, package: Path, tmp_path: Path) -> None:
    """Each cold start would compile 11 MB of sources: /var/task is read-only, so Lambda keeps no bytecode."""
    other = tmp_path / "package"
    shutil.copytree(package, other, ignore=shutil.ignore_patterns("__pycache__"))
    # The runtime here may have another version of Python than the function, which needs other bytecode.
    python = TOOLS / "runtime" / "bin" / "python"
    make = ("make", "--silent", "build-RelayFunction", "--old-file=sources")
    subprocess.run([*make, f"ARTIFACTS_DIR={other}", f"VERSION_PYTHON={python}"], cwd=ROOT / "src", check=True)
    with (other / "flash_call_relay" / "handler.py").open("a") as source:
        source.write("\nraise RuntimeError('compiled from the source')\n")
    with Runtime(relay.deployment, other, tmp_path / "logs"):
        assert relay.invoke({"Records": []})["FunctionError"] is None


def build(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Build the package as SAM does, with another Python, date, umask and environment than the `package` fixture."""
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    environment["PATH"] = f"{TOOLS / 'dev' / 'bin'}:{os.environ['PATH']}"  # as for the `package` fixture
    environment |= {"ARTIFACTS_DIR": str(directory), "PIP_USER": "1", "PIP_REQUIRE_VIRTUALENV": "1"}
    environment |= {"TZ": "TOMORROW-24", "LC_ALL": "C", "PYTHONHASHSEED": "1", "PYTHONOPTIMIZE": "1"}
    command = ["make", "--silent", "build-RelayFunction", f"PYTHON={PYTHON}", *arguments]
    done = subprocess.run(
        command, cwd=ROOT / "src", env=environment, umask=0o007, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def differing(ours: Path, theirs: Path) -> list[str]:
    """Return the files that differ in permissions or contents; pytest would take minutes to compare them itself."""
    found = [
        {
            str(path.relative_to(place)): (path.stat().st_mode, path.read_bytes())
            for path in place.rglob("*")
            if path.is_file()
        }
        for place in (ours, theirs)
    ]
    return sorted(name for name in found[0].keys() | found[1].keys() if found[0].get(name) != found[1].get(name))
