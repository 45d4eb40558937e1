"""What `sam build` ships."""

import subprocess
import sys
from pathlib import Path

SIZE_LIMIT_MB = 12


def test_the_package_is_complete_and_small(built: Path) -> None:
    """The function would not start on AWS, where nothing but its package is there; or it would start slowly."""
    package = built.parent / "RelayFunction"
    script = (
        f"import sys; sys.path.insert(0, {str(package)!r}); import flash_call_relay.handler as h; print(h.__file__)"
    )
    # Without site-packages: what the package lacks is not to be found elsewhere.
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(package))
    size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert size < SIZE_LIMIT_MB * 1024 * 1024
