"""The pages on what one may bring are followed word by word: their files, their commands, what these print."""

from __future__ import annotations

import doctest
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import Command, File, command_lines, follow, same, steps, unknown_words
from places import ROOT

from mllm_eval.adapters import family
from mllm_eval.miniature.build import build

DOCS = ROOT / "docs"
ENCODERS, BENCHMARKS, PYTHON = (DOCS / name for name in ("add-an-encoder.md", "add-a-benchmark.md", "python.md"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder that one works in; what a page exports is gone with it."""
    before = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("folder")
        patch.chdir(folder)
        patch.delenv("MLLM_EVAL_PATH", raising=False)
        patch.setenv("MLLM_EVAL_RESULTS", str(folder / "results"))
        yield folder
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.slow
def test_a_benchmark_and_then_an_encoder_are_added_as_the_pages_say(home: Path) -> None:
    assert follow(BENCHMARKS) == []
    # The encoder is evaluated on that benchmark.
    assert follow(ENCODERS) == []
    # Its weights are nowhere here; what the page says of it is read.
    registers: Any = family("dinov2_registers")
    assert registers.form.registers == 4 and registers.model_types == ("dinov2_with_registers",)


def test_what_the_pages_show_is_files_and_commands() -> None:
    shown = {page: steps(page) for page in (BENCHMARKS, ENCODERS)}
    names = {one.path for own in shown.values() for one in own if isinstance(one, File)}
    assert {"benchmarks/myqa/benchmark.yaml", "configs/recipes/mine.yaml", "adapters/convnet.py"} <= names
    for page, own in shown.items():
        lines = page.read_text(encoding="utf-8").splitlines()
        commands = [one for one in own if isinstance(one, Command)]
        assert len(commands) == sum(line.lstrip().startswith("$ ") for line in lines) >= 4


@pytest.mark.slow
def test_python_is_used_as_the_page_says(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path, alignment=8, instruction=8)
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path))
    found = doctest.testfile(str(PYTHON), module_relative=False, optionflags=doctest.ELLIPSIS, encoding="utf-8")
    assert found.attempted > 25 and found.failed == 0


@pytest.mark.parametrize(
    ("told", "printed", "alike"),
    [
        ("n 4, value 50.00", "n 4, value 47.92", True),
        ("n 4, value 50.00", "n 5, value 50.00", False),
        ("mean 0.010 ", "mean 0.011", True),
        ("mean 0.01", "mean 0.91", False),
        ("value 50.0", "value 60.0", False),
        ("value  97.9", "value 100.0", True),
        ("one\ntwo", "one", False),
        ("median 10.1, largest 2.0", "median 10.1", False),
    ],
)
def test_only_the_last_digits_may_differ(told: str, printed: str, alike: bool) -> None:
    assert same(told, printed) is alike


PAGES = [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_is_one_of_today(page: Path) -> None:
    wrong = {line: words for line in command_lines(page) if (words := unknown_words(line))}
    assert wrong == {}


def test_the_pages_show_commands_and_a_stale_one_is_told() -> None:
    assert sum(len(command_lines(page)) for page in PAGES) > 60
    assert unknown_words("mllm-eval eval mini-dino --blind --seed 1") == []
    assert unknown_words("mllm-eval check gpu --dry") == []
    assert unknown_words("mllm-eval eval mini-dino --blnd")
    assert unknown_words("mllm-eval stats powr a b")
    assert unknown_words("mllm-eval stats power a")


def test_every_target_that_a_page_shows_is_in_the_makefile() -> None:
    makefile = (DOCS.parent / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"\$\((?:if \$\()?([A-Z_]+)", makefile)) | {"PYTHON", "TORCH_INDEX"}
    shown = 0
    for page in PAGES:
        for call in re.finditer(
            r"(?:^|`|&& )make ((?:[a-z-]+ ?)(?:[A-Z_]+=\S* ?)*)", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            target, *given = call[1].split()
            assert target in targets, (page.name, call[0])
            assert {one.partition("=")[0] for one in given} <= variables, (page.name, call[0])
            shown += 1
    assert shown > 30
