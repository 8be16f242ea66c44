"""A few kills of a few steps; `make faults` does hundreds of all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).parents[1] / "killing.py"


@pytest.mark.slow
def test_killed_steps_end_in_the_bytes_of_undisturbed_ones(tmp_path: Path) -> None:
    """In a process of its own: what it forks must not have this one's threads."""
    words = ["--kills", "10", "--seed", "1", "--out", str(tmp_path / "faults.md")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    done = subprocess.run([sys.executable, str(DRIVER), *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    last = done.stdout.splitlines()[-1].split("|")
    assert last[1].strip() == "in all" and last[5].strip() == "10" and last[6].strip() == "0"
