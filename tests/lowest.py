"""Runs tests in an environment of the lowest versions that pyproject.toml takes; `make test-lowest` runs this file.

Every dependency of the project and of its extra `model` is installed in exactly its lower bound, torch in the version
of constraints.txt (its older releases are several GB each), what they need in turn in whatever version fits. The tests
are those of models, exports and adapters, or those that are named. pip refuses bounds that contradict each other.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from places import ROOT

TESTS = ("tests/model", "tests/adapters", "tests/test_autoclasses.py")
# What runs the tests, and what they import beside the model's extra; their age says nothing.
TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "gguf")


def lowest(pyproject: str, constraints: str) -> list[str]:
    """A requirement `name==version` for each dependency, with the lower bound that the text of pyproject.toml states.

    Raises ValueError for one that states none.
    """
    project = tomllib.loads(pyproject)["project"]
    found = []
    for one in [*project["dependencies"], *project["optional-dependencies"]["model"]]:
        bound = re.match(r"([\w.-]+)>=([\w.]+)$", one)
        if bound is None:
            raise ValueError(f"pyproject.toml: {one!r} states no lower bound")
        name, version = bound.groups()
        if name == "torch":
            version = re.search(r"^torch==(\S+)", constraints, re.MULTILINE)[1]  # type: ignore[index]
        found.append(f"{name}=={version}")
    return found


def environment(folder: Path, wanted: list[str], torch_from: str | None) -> Path:
    """The Python of an environment with what is wanted and `TOOLS`, made anew where something else was wanted."""
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    text = "".join(f"{one}\n" for one in [*wanted, *TOOLS])
    if not installed.is_file() or installed.read_text(encoding="utf-8") != text:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        if torch_from:
            torch = next(one for one in wanted if one.startswith("torch=="))
            subprocess.run([*pip, "--no-deps", "--index-url", torch_from, torch], check=True)
        subprocess.run([*pip, *wanted, *TOOLS], check=True)
        installed.write_text(text, encoding="utf-8")
    return python


def main() -> int:
    """Install, say what was installed, test; the exit code is pip's or pytest's."""
    asked = argparse.ArgumentParser(prog="lowest", description=(__doc__ or "").splitlines()[0])
    asked.add_argument("tests", nargs="*", default=TESTS, help="by default %(default)s")
    asked.add_argument("--torch-from", help="the index that torch comes from")
    said = asked.parse_args()
    wanted = lowest((ROOT / "pyproject.toml").read_text(), (ROOT / "constraints.txt").read_text())
    from mllm_eval.storage import results_home

    try:
        python = environment(results_home() / "lowest", wanted, said.torch_from)
    except subprocess.CalledProcessError as problem:
        return problem.returncode
    print(" ".join(wanted), flush=True)
    tests = [python, "-m", "pytest", "-p", "no:cacheprovider", *said.tests]
    return subprocess.run(tests, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
