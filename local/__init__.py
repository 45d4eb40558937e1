"""Tools that run and test the relay on one machine, without AWS and without BetaTel."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / ".venv"  # one virtual environment for each set of tools
