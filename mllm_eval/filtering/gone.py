"""Sets the files of shards that are no longer in the corpus apart from the others, and brings them back. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mllm_eval import disk
from mllm_eval.disk import saving
from mllm_eval.filtering.corpus import Corpus
from mllm_eval.filtering.deciding import Places

GONE = "gone"
# A folder of the files of shards, and the ending that is put behind a shard's name.
DECISIONS = ("decisions", ".parquet")


def separate(places: Places, corpus: Corpus, count: int) -> int:
    """Moves the files of shards that are not in the corpus to the folder `gone`; returns how many shards are there.

    count: the number of shards of the corpus.

    They would otherwise be read with the others. They are not removed, because a disk may be missing only for a while:
    a shard that is back gets its files back.
    """
    folders = (DECISIONS, ("kept", ".txt"), ("shards", ".tar" if corpus.kind == "files" else ""))
    holds, apart = corpus.holder(count), places.out / GONE
    # The decisions mark a shard as done: they leave first and come back last.
    for folder, ending in reversed(folders):
        back = [path for name, path in _files(apart / folder, ending)
                if holds(name) and not places.decisions(name).is_file()]  # fmt: skip
        for path in back:
            _move(path, places.out / folder / path.relative_to(apart / folder))
    for folder, ending in folders:
        for path in [path for name, path in _files(places.out / folder, ending) if not holds(name)]:
            _move(path, apart / folder / path.relative_to(places.out / folder))
    return sum(1 for _ in _files(apart / DECISIONS[0], DECISIONS[1]))


def decided(places: Places) -> set[str]:
    """The names of the shards that have decisions."""
    return {name for name, _ in _files(places.out / DECISIONS[0], DECISIONS[1])}


def _files(folder: Path, ending: str) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(folder)).removesuffix(ending), path


def _move(path: Path, to: Path) -> None:
    with saving(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        disk.replace(path, to)
