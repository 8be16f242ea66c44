"""Targets of the Makefile pass on what a user gives them, and nothing else."""

from __future__ import annotations

import os
import re
import shlex
import subprocess

import pytest

from mllm_eval.storage import PACKAGE

ROOT = PACKAGE.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
# Targets that call the command line.
TARGETS = re.findall(r"^([a-z-]+):.*\n\t@\$\(RUN\) ", MAKEFILE, re.MULTILINE)


def told(target: str, *given: str) -> list[str]:
    """The words of the command that a target would run."""
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    call = ["make", "-n", "-o", ".venv/.installed", target, *given]
    done = subprocess.run(call, cwd=ROOT, env=clean, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if "mllm-eval " in line]
    return shlex.split(line)


def test_filter_passes_on_no_option_that_nobody_gave() -> None:
    given = ("IMAGES=in", "LEVEL=heavy", "MODEL=run")
    plain = ["filter", "--images", "in", "--model", "run", "--level", "heavy"]
    assert told("filter", *given)[1:] == plain
    assert told("filter", *given, "RAY=local", "WORKERS=3")[1:] == [*plain, "--ray", "local", "--workers", "3"]


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_default_of_the_makefile_reaches_a_command(target: str) -> None:
    # Without any variable, an option that is always there is followed by the next one or by nothing.
    command, *words = told(target)
    assert command == ".venv/bin/mllm-eval"
    recipe = MAKEFILE.split(f"\n{target}:")[1].splitlines()[1]
    assert set(words) <= set(re.findall(r"[\w-]+", re.sub(r"\$\(if .*", "", recipe))), words


def test_tests_run_in_as_many_processes_as_before() -> None:
    assert len(TARGETS) > 15
    assert "-n $(or $(WORKERS),logical)" in MAKEFILE
