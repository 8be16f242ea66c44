"""Making the miniature's data: training sets and benchmarks, whole or not at all, the same bytes every time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from mllm_eval.errors import UserError
from mllm_eval.locks import FileLock
from mllm_eval.miniature.benchmarks.deck import Deck
from mllm_eval.miniature.benchmarks.writers import WRITERS
from mllm_eval.miniature.training import conversations
from mllm_eval.storage import data_home, read_text, sha256_bytes, sha256_file, sha256_tree, write_json, write_jsonl

ALIGNMENT_ROWS, INSTRUCTION_ROWS = 12_000, 24_000
SOURCES = ("benchmarks", "build.py", "further.py", "phrasing.py", "training.py", "world")
VERSION, LISTING, CHANCE = "VERSION", "SHA256SUMS", "chance.json"
Progress = Callable[[str, int, int], None]
"""Called with what is being made, how many rows of it are done, how many there will be."""


def version(alignment: int = ALIGNMENT_ROWS, instruction: int = INSTRUCTION_ROWS) -> str:
    """Changes when the code that draws and asks changes, or the sizes."""
    code = Path(__file__).parent
    drawn = sha256_tree(code, lambda path: path.suffix == ".py" and path.relative_to(code).parts[0] in SOURCES)
    return sha256_bytes(f"{drawn} {alignment} {instruction}".encode())[:16]


def build(
    home: Path | None = None,
    progress: Progress | None = None,
    alignment: int = ALIGNMENT_ROWS,
    instruction: int = INSTRUCTION_ROWS,
) -> Path:
    """Write `miniature/` under `home` (default: `data_home()`) unless it is there in this version; its path.

    It holds train/{alignment,instruction}.jsonl with train/images, a folder for each benchmark in the hub's
    layout, chance.json (benchmark -> percent of questions that a guesser gets right), VERSION and SHA256SUMS.
    A build that is interrupted leaves nothing that is taken for a whole one.
    """
    home = home or data_home()
    target, wanted = home / "miniature", version(alignment, instruction)
    with FileLock(home / ".miniature.lock"):
        if is_whole(target, wanted):
            return target
        making = home / f".miniature.{os.getpid()}.tmp"
        for left in home.glob(".miniature.*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        try:
            _write(making, progress or (lambda *_: None), {"align": alignment, "instruct": instruction})
            (making / VERSION).write_text(wanted + "\n")
            shutil.rmtree(target, ignore_errors=True)
            making.rename(target)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return target


def is_whole(target: Path, wanted: str) -> bool:
    """Whether the folder is of this version and has every file of its listing, pictures of training apart."""
    if not (target / VERSION).is_file() or read_text(target / VERSION).strip() != wanted:
        return False
    files = [name for _, name in _listed(target) if not name.startswith("train/images/")]
    return all((target / name).is_file() for name in files)


def verify(target: Path) -> None:
    """Check every file against the listing. UserError names the first that is missing or differs."""
    for digest, name in _listed(target):
        if not (target / name).is_file() or sha256_file(target / name) != digest:
            raise UserError(f"{target / name}: missing or changed; delete {target} and run `make data`")


def _listed(target: Path) -> list[tuple[str, str]]:
    lines = read_text(target / LISTING).splitlines()
    return [(line[:64], line[66:]) for line in lines]


def _write(making: Path, progress: Progress, sizes: dict[str, int]) -> None:
    taken: set[bytes] = set()
    names = {"align": "alignment", "instruct": "instruction"}
    for series, size in sizes.items():
        rows = []
        for row, key in conversations(series, size, making / "train/images"):
            rows.append(row)
            taken.add(key)
            if len(rows) % 500 == 0 or len(rows) == size:
                progress(names[series], len(rows), size)
        write_jsonl(making / f"train/{names[series]}.jsonl", rows)
    chance = {}
    for k, (name, write) in enumerate(WRITERS.items(), start=1):
        guessed = write(Deck(f"bench-{name}", taken), making)
        chance[name] = round(100 * sum(guessed) / len(guessed), 2)
        progress("benchmarks", k, len(WRITERS))
    write_json(making / CHANCE, chance)
    files = sorted(path for path in making.rglob("*") if path.is_file())
    lines = [f"{sha256_file(path)}  {path.relative_to(making).as_posix()}\n" for path in files]
    (making / LISTING).write_text("".join(lines), encoding="utf-8")
