"""Sizes of training sets and benchmarks: counted if possible, and otherwise assumed and reported as such."""

from __future__ import annotations

import csv
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from mllm_eval.catalog import Benchmark, ConversationData, Recipe, Stage, load_benchmark, names, paper_benchmarks
from mllm_eval.errors import UserError
from mllm_eval.storage import SHIPPED, locate, parse_json

# Number of rows of a local training set that are read to estimate the length of texts.
LOOKED_AT = 2000
# In LLaMA's vocabulary, a token of English text has about four letters.
LETTERS = 4
TEXT = 256
QUESTION = 96
ANSWER = 16
TARGETS = 0.5


@dataclass(frozen=True)
class StageLoad:
    """Rows, steps, images, and text and target tokens per row of a stage; `assumed` lists what is not counted."""

    rows: int
    steps: int
    images: int
    text: int
    targets: int
    assumed: tuple[str, ...]


@dataclass(frozen=True)
class BenchmarkLoad:
    """A benchmark's questions, distinct images (`bound`: an upper bound), and longest answer in tokens."""

    name: str
    questions: int
    images: int
    bound: bool
    longest: int


class BenchmarkSize(NamedTuple):
    """A benchmark's questions and distinct images on the hub (`bound`: an upper bound of the images)."""

    questions: int
    images: int
    bound: bool


def stage_load(
    recipe: Recipe, number: int, stage: Stage, rows: int | None = None, text: int | None = None
) -> StageLoad:
    """Size of a stage. rows, text: override the counted rows and the text tokens per row.

    Raises UserError if the number of rows is unknown.
    """
    files = [_read(data, rows is None, text is None) for data in stage.data]
    assumed = []
    if rows is None:
        counted = [_rows(data, file) for data, file in zip(stage.data, files, strict=True)]
        if any(count is None for count in counted):
            first = next(data.path for data, count in zip(stage.data, counted, strict=True) if count is None)
            raise UserError(
                f"recipe {recipe.name}, stage {number}: {first} is not here and has neither `rows` nor `about`; "
                f"say how many with --rows{number}"
            )
        rows = sum(count or 0 for count in counted)
        if any(data.about and not data.rows and file is None for data, file in zip(stage.data, files, strict=True)):
            assumed.append(f"about {rows:,} rows, what `exclude` leaves out included")
    else:
        assumed.append(f"{rows:,} rows, as given")
    if text is None:
        text, said = _text([file for file in files if file is not None])
        assumed.append(said)
    else:
        assumed.append(f"{text} text tokens a row, as given")
    assumed.append("one image a row; half of the text is answer")
    steps = stage.steps_for(rows)
    # Rows are truncated to the recipe's maximal length.
    text = max(1, min(text, stage.max_length - recipe.positions))
    seen = steps * stage.batch
    return StageLoad(seen, steps, min(rows, seen), text, round(text * TARGETS), tuple(assumed))


@dataclass
class _ConversationFile:
    """What is read of a local training set: its rows (0 if not counted), and the letters of its first `looked` ones."""

    rows: int = 0
    looked: int = 0
    letters: int = 0


def _read(data: ConversationData, count_rows: bool, count_letters: bool) -> _ConversationFile | None:
    """Read a training set once and no further than needed; None if it is not on this machine."""
    path = locate(data.path)
    if not path.is_file():
        return None
    read = _ConversationFile()
    needed = None if count_rows and data.rows is None else LOOKED_AT if count_letters else 0
    with open(path, "rb") as file:
        for number, line in enumerate(islice(file, needed)):
            read.rows += bool(line.strip())
            if count_letters and number < LOOKED_AT:
                # Broken rows are skipped here; training reports them when it reads them.
                with suppress(ValueError, TypeError, AttributeError):
                    parsed = parse_json(line.decode("utf-8", errors="replace"), fields_once=False)
                    read.letters += sum(len(str(turn.get("value", ""))) for turn in parsed.get("conversations", []))
                    read.looked += 1
    return read


def _rows(data: ConversationData, file: _ConversationFile | None) -> int | None:
    if data.rows is not None:
        return data.rows
    return made_rows().get(data.path, data.about) if file is None else file.rows


def made_rows() -> dict[str, int]:
    """Map conversation files that this project generates to their numbers of rows; the tests check them."""
    with open(SHIPPED / "configs" / "reference" / "training_sizes.csv", encoding="utf-8", newline="") as file:
        return {row["path"]: int(row["rows"]) for row in csv.DictReader(file)}


def _text(files: list[_ConversationFile]) -> tuple[int, str]:
    rows = sum(file.looked for file in files)
    if not rows:
        return TEXT, f"{TEXT} text tokens a row"
    tokens = max(1, round(sum(file.letters for file in files) / rows / LETTERS))
    return tokens, f"{tokens} text tokens a row, from {rows:,} rows at {LETTERS} letters a token"


def benchmark_loads(pin: str) -> list[BenchmarkLoad]:
    """The benchmarks of the paper's table that have this pin. Raises UserError if a pin does not say its rows.

    For the hub's data, the counts come from configs/reference/benchmark_sizes.csv, which the tests compare with the
    pins and the published counts. For other data, it is the pin's rows, with one image each.
    """
    here = set(names("benchmarks"))
    benchmarks = [load_benchmark(name) for name in paper_benchmarks() if name in here]
    sizes = reference_sizes()
    return [_load(one, pin, sizes) for one in benchmarks if pin in one.data]


def reference_sizes() -> dict[str, BenchmarkSize]:
    """Map benchmarks to their sizes on the hub."""
    with open(SHIPPED / "configs" / "reference" / "benchmark_sizes.csv", encoding="utf-8", newline="") as file:
        return {
            row["benchmark"]: BenchmarkSize(int(row["questions"]), int(row["images"]), row["images_are"] == "bound")
            for row in csv.DictReader(file)
        }


def _load(benchmark: Benchmark, pin: str, sizes: dict[str, BenchmarkSize]) -> BenchmarkLoad:
    longest = benchmark.generation.max_new_tokens
    if pin == "hub" and benchmark.name in sizes:
        size = sizes[benchmark.name]
        return BenchmarkLoad(benchmark.name, size.questions, size.images, size.bound, longest)
    rows = benchmark.data[pin].rows
    if rows is None:
        raise UserError(f"benchmark {benchmark.name}: its pin {pin!r} does not say how many rows it has; add `rows`")
    return BenchmarkLoad(benchmark.name, rows, rows, True, longest)
