"""The runtime uses its libraries by their public API."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from local import ROOT

OWN = {"self", "cls"}
DOCUMENTED = {"propagate", "verify_flags"}  # Python's documentation tells to set these, of a logger and a context


def is_private(name: str) -> bool:
    """Return whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__")


def faults(source: str) -> Iterator[str]:
    """Yield each use of a private part of another library."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if not module.startswith("flash_call_relay"):
                yield from (f"imports {name.name}" for name in names if is_private(name.name))
            case ast.Attribute(value=ast.Name(id=owner)) if owner in OWN:
                pass
            case ast.Attribute(attr=name) if is_private(name):
                yield f"uses {name}"
            case ast.Attribute(attr=name, ctx=ast.Store() | ast.Del()) if name not in DOCUMENTED:
                yield f"assigns to {name}"
            case ast.Call(func=ast.Name(id="setattr" | "delattr" as name)):
                yield f"calls {name}"
            case ast.ClassDef(bases=bases, body=body) if any(not is_private(ast.unparse(base)) for base in bases):
                own = [one.name for one in body if isinstance(one, ast.FunctionDef)]
                yield from (f"overrides {name}" for name in own if is_private(name))


@pytest.mark.parametrize("module", sorted((ROOT / "src").rglob("*.py")), ids=lambda path: path.stem)
def test_a_module_uses_no_private_part_of_a_library(module: Path) -> None:
    """An upgrade of a library could break the relay without an error, and a reviewer would have to know internals."""
    assert not list(faults(module.read_text()))


@pytest.mark.parametrize(
    "source",
    [
        "from logging import _srcfile",
        "connection._dns_host",
        "context.set_alpn_protocols = print",
        "setattr(module, 'name', 1)",
        "class Connection(HTTPConnection):\n    def _new_conn(self): ...",
    ],
)
def test_a_private_part_is_found(source: str) -> None:
    """The test above would pass whatever the runtime does."""
    assert list(faults(source))
