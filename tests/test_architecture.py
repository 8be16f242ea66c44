"""The floors: every room has one, the page tells of it, and what needs no torch loads none."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from places import ROOT

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LAYERS = [layer.split(" | ") for layer in CONTRACTS[0]["layers"]]
# Counted from the bottom, as on the page.
FLOORS = {room: number for number, layer in enumerate(reversed(LAYERS), start=1) for room in layer}
WITHOUT_TORCH = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    room = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(room, "__path__", []), f"{name}."):
        importlib.import_module(found.name)
print(sorted(name for name in ("torch", "transformers") if name in sys.modules))
"""


def rooms() -> set[str]:
    return {path.stem for path in (ROOT / "mllm_eval").iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}


def on_the_page() -> list[tuple[int, list[str], str]]:
    """The rows of the page's table: floor, the rooms of the row, and how they use torch."""
    page, found, floor = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8"), [], 0
    for number, names, torch in re.findall(r"^\| (\d*) *\| ((?:`\w+` )+)\| .* \| ([Tt]?) *\|$", page, re.MULTILINE):
        floor = int(number or floor)
        found.append((floor, re.findall(r"\w+", names), torch))
    return found


def test_every_room_has_its_floor_in_the_contract_and_on_the_page() -> None:
    assert sorted(FLOORS) == sorted(rooms() - {"__init__"})
    assert [(room, floor) for floor, row, _ in on_the_page() for room in row if FLOORS.get(room) != floor] == []
    assert sorted(room for _, row, _ in on_the_page() for room in row) == sorted(FLOORS)


def test_the_picture_shows_the_floors_in_their_order() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    picture = page.split("```mermaid\n")[1].split("```")[0]
    arrows = re.findall(r"^  (\w+) --> (\w+)(?:\[\"(.*)\"\])?$", picture, re.MULTILINE)
    assert len(arrows) == len(picture.splitlines()) - 1
    # Each arrow begins at the box in which the one before it ended.
    assert [start for start, _, _ in arrows[1:]] == [end for _, end, _ in arrows[:-1]]
    boxes = [
        [arrows[0][0]],
        *([room for room in re.findall(r"\w+", text or end) if room in FLOORS] for _, end, text in arrows),
    ]
    shown = [{FLOORS[room] for room in box} for box in boxes]
    assert all(min(upper) > max(lower) for upper, lower in pairwise(shown))
    packages = {room for room in FLOORS if (ROOT / "mllm_eval" / room).is_dir()}
    assert packages <= {room for box in boxes for room in box}


HEAVY = set(CONTRACTS[1]["forbidden_modules"])


def heavy_imports(tree: ast.AST, inside: bool = False) -> Iterator[bool]:
    """For each import of torch or its kin: whether it is inside a function. Imports for types alone do not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        yield from (inside for name in names if name.partition(".")[0] in HEAVY)
        yield from heavy_imports(node, inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def torch_of(room: Path) -> str:
    """T, t or nothing, as in the page's last column."""
    files = room.rglob("*.py") if room.is_dir() else [room.with_suffix(".py")]
    texts = [file.read_text(encoding="utf-8") for file in files]
    # Parsing takes time, and most files name none of them.
    trees = [ast.parse(text) for text in texts if any(name in text for name in HEAVY)]
    found = {inside for tree in trees for inside in heavy_imports(tree)}
    return "T" if False in found else "t" if found else ""


@pytest.mark.slow
def test_the_page_says_how_each_room_uses_torch(tmp_path: Path) -> None:
    told = {room: torch for _, row, torch in on_the_page() for room in row}
    assert told == {room: torch_of(ROOT / "mllm_eval" / room) for room in told}
    # `make lint` holds each of the rooms without torch.
    light = {room for room, torch in told.items() if not torch}
    assert sorted(CONTRACTS[1]["source_modules"]) == sorted(f"mllm_eval.{room}" for room in light)
    made = tmp_path / "made.py"
    for text, torch in (
        ("import torch.nn as nn", "T"),
        ("try:\n    from peft import LoraConfig\nexcept ImportError:\n    pass", "T"),
        ("class One:\n    def method(self):\n        from transformers import AutoModel", "t"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", ""),
        ("import torchlike\nfrom .torch import one", ""),
    ):
        made.write_text(text)
        assert torch_of(made.with_suffix("")) == torch, text


PRIVATE = re.compile(r"(?:.*\.)?(_[A-Za-z]\w*(?<!_))")
# Hooks of transformers and torch.
BEYOND = {"_save_checkpoint", "_parameters", "_schema"}


def private_names(folders: tuple[str, ...]) -> set[str]:
    """The names with an underscore that the code of these folders gives to functions, classes and values."""
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return {name for name in found if PRIVATE.fullmatch(name)}


def reached_into(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Private names that a module imports, reads of another object, or names as a text in a call such as setattr."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mllm_eval"):
            names = [one.name for one in node.names]
        elif isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            names = [node.attr]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):
            names = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        yield from ((match[1], node.lineno) for name in names if (match := PRIVATE.fullmatch(name)))


@pytest.mark.slow
def test_tests_and_benches_use_public_names() -> None:
    """What a test asks about is what others may use; so a change inside of a module breaks no test."""
    private = private_names(("mllm_eval", "adapters", "benchmarks")) - BEYOND
    assert len(private) > 500
    reached = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for folder in ("tests", "bench")
        for path in (ROOT / folder).rglob("*.py")
        for name, line in reached_into(ast.parse(path.read_text(encoding="utf-8")))
        if name in private
    ]
    assert reached == []


@pytest.mark.parametrize(
    "text",
    [
        "from mllm_eval.config import _held",
        "config._held",
        "made(1)._held",
        'patch.setattr(config, "_held", 1)',
        'monkeypatch.setattr("mllm_eval.config._held", 1)',
        'getattr(config, "_held")',
    ],
)
def test_a_private_name_is_seen_however_it_is_reached(text: str) -> None:
    assert [name for name, _ in reached_into(ast.parse(text))] == ["_held"]


@pytest.mark.slow
def test_make_lint_refuses_an_import_from_a_higher_floor(tmp_path: Path) -> None:
    package = tmp_path / "mllm_eval"
    for room in ("low", "high"):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    contract = {**CONTRACTS[0], "layers": ["high", "low"]}
    lines = [f"{key} = {value!r}".replace("True", "true") for key, value in contract.items()]
    config = tmp_path / "contract.toml"
    config.write_text(
        '[tool.importlinter]\nroot_package = "mllm_eval"\n[[tool.importlinter.contracts]]\n' + "\n".join(lines)
    )
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--config", str(config)]

    def lint() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "."}
        )

    assert lint().returncode == 0, lint().stdout
    # Inside a function, too: it is the same edge.
    (package / "low" / "__init__.py").write_text("def late():\n    import mllm_eval.high\n")
    assert lint().returncode == 1 and "mllm_eval.low is not allowed to import mllm_eval.high" in lint().stdout
    (package / "low" / "__init__.py").write_text("")
    (package / "new.py").write_text("")
    assert lint().returncode == 1 and "new" in lint().stdout
    assert "lint-imports" in (ROOT / "Makefile").read_text()


@pytest.mark.slow
def test_rooms_without_torch_load_none() -> None:
    # To import `__main__` is to run the program.
    light = [name for name in CONTRACTS[1]["source_modules"] if name != "mllm_eval.__main__"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *light], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


def test_no_module_is_longer_than_a_reader_holds() -> None:
    """CONTRIBUTING.md: 300 lines; one that grows is split by what it does."""
    folders = ("mllm_eval", "adapters", "benchmarks", "bench")
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    }
    assert len(lines) > 300 and {path: count for path, count in lines.items() if count > 300} == {}


def test_no_two_files_of_one_name_take_part_in_an_evaluation() -> None:
    """A room of its own kind of work (filtering, probes, the miniature, ...) may call a file as the evaluation does."""
    apart = {"alignment", "filtering", "gpucheck", "leaks", "metrics", "miniature", "probes"}
    package = ROOT / "mllm_eval"
    files = [path for path in package.rglob("*.py") if not apart & set(path.relative_to(package).parts)]
    names = Counter(path.name for path in files if path.name != "__init__.py")
    assert len(names) > 200
    assert [name for name, count in names.items() if count > 1] == []


def test_tests_stand_where_what_they_test_stands() -> None:
    """A package's tests are in the folder of its name, a module's beside them; the rest is of more than one package."""
    files = [path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")]
    packages = {path.parent.name for path in (ROOT / "mllm_eval").glob("*/__init__.py")}
    folders = {file.parts[0] for file in files if len(file.parts) > 1}
    assert packages <= folders and folders - packages == {"bench", "disk", "faults", "flow", "security"}
    modules = {path.stem for path in (ROOT / "mllm_eval").glob("*.py")}
    beside = {file.stem.removeprefix("test_") for file in files if len(file.parts) == 1}
    assert beside - modules == {"architecture", "lowest"}


def test_files_of_the_code_that_pages_name_are_there() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    named = {
        (page.name, path)
        for page in pages
        for path in re.findall(r"\b(?:tests|bench|mllm_eval)/[\w/-]+\.(?:py|sh|yaml)", page.read_text(encoding="utf-8"))
    }
    assert len(named) > 20 and {(page, path) for page, path in named if not (ROOT / path).is_file()} == set()


def test_make_lint_counts_parameters() -> None:
    """More than seven travel as a typed object; a function of eight is refused, of seven it is not."""
    config = str(ROOT / "pyproject.toml")
    for count, code in ((7, 0), (8, 1)):
        text = f"def called({', '.join(f'a{at}: int' for at in range(count))}) -> None:\n    pass\n"
        command = [
            str(Path(sys.executable).parent / "ruff"),
            "check",
            "--config",
            config,
            "--stdin-filename",
            "made.py",
            "-",
        ]
        done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == code and ("PLR0913" in done.stdout) == bool(code), done.stdout
