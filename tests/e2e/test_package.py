"""The package that `sam build` makes."""

import subprocess
import sys
from pathlib import Path

SIZE_LIMIT_MB = 12


def test_the_package_imports_without_other_libraries_and_is_small(built: Path) -> None:
    """The function would not start on AWS, where its package is all it has, or it would start slowly."""
    package = built.parent / "RelayFunction"
    script = (
        f"import sys; sys.path.insert(0, {str(package)!r}); import flash_call_relay.handler as h; print(h.__file__)"
    )
    # Without site-packages, so that no library outside the package is found.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(package))
    size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert size < SIZE_LIMIT_MB * 1024 * 1024
