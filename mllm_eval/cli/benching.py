"""`mllm-eval bench`: runs the timing scripts in bench/, each in its own process."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mllm_eval.console import say
from mllm_eval.errors import UserError, near
from mllm_eval.storage import PACKAGE


def folder() -> Path:
    """The folder of the timing scripts: bench/ of the checkout. Raises UserError if there is none."""
    bench = PACKAGE.parent / "bench"
    if not bench.is_dir():
        raise UserError(f"{bench}: no such folder; the timings are part of a checkout, not of an installed package")
    return bench


def timings() -> dict[str, str]:
    """Map the name of each timing script to the first line of its docstring, which says what it times."""
    benches = {}
    for path in sorted(folder().glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            benches[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return benches


def run_timings(names: Sequence[str], options: Sequence[str]) -> bool:
    """Run timing scripts one after another. Return False if any of them failed.

    names: scripts to run; empty: all. options: command-line options that are passed to the script.

    Raises:
        UserError: a name is unknown, or there are options but not exactly one name.
    """
    known = timings()
    for name in names:
        if name not in known:
            raise UserError(f"unknown timing {name!r}.{near(name, known)} Known: {', '.join(known)}")
    if options and len(names) != 1:
        raise UserError(f"options ({' '.join(options)}) belong to one timing: mllm-eval bench NAME -- OPTIONS")
    # Python itself lets a script import bench/harness.py; this path adds the package of this checkout.
    paths = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    failed = []
    for name in names or known:
        done = subprocess.run([sys.executable, str(folder() / f"{name}.py"), *options],
                              env={**os.environ, "PYTHONPATH": paths}, check=False)  # fmt: skip
        if done.returncode:
            failed.append(name)
        say(flush=True)
    if failed:
        say(f"mllm-eval: failed: {', '.join(failed)}", file=sys.stderr)
    return not failed
