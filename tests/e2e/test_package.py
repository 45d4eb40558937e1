"""The package that `sam build` makes."""

import os
import subprocess
import sys
from pathlib import Path

from local import ROOT, TOOLS

SIZE_LIMIT_MB = 12


def test_the_package_imports_without_other_libraries_and_is_small(package: Path) -> None:
    """The function would not start on AWS, where its package is all it has, or it would start slowly."""
    script = (
        f"import sys; sys.path.insert(0, {str(package)!r}); import flash_call_relay.handler as h; print(h.__file__)"
    )
    # Without site-packages, so that no library outside the package is found.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(package))
    size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert size < SIZE_LIMIT_MB * 1024 * 1024


def test_a_build_without_the_functions_python_makes_the_same_sources(package: Path, tmp_path: Path) -> None:
    """A developer without Python 3.13 would deploy another package, or none."""
    bare = tmp_path / "package"
    environment = {**os.environ, "PATH": f"{TOOLS / 'dev' / 'bin'}:{os.environ['PATH']}"}
    command = ["make", "--silent", "build-RelayFunction", f"ARTIFACTS_DIR={bare}", "VERSION_PYTHON="]
    done = subprocess.run(command, cwd=ROOT / "src", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no bytecode" in done.stderr
    assert files(bare) == {name: text for name, text in files(package).items() if not name.endswith(".pyc")}


def files(package: Path) -> dict[str, bytes]:
    """Return the contents of a package by path."""
    return {str(path.relative_to(package)): path.read_bytes() for path in package.rglob("*") if path.is_file()}
