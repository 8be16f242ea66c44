"""What is searched, hashed: a recipe's training data or a folder of images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mllm_eval.catalog import Encoder, Recipe
from mllm_eval.errors import UserError
from mllm_eval.leaks.corpora import Folder, SearchedCorpus
from mllm_eval.leaks.findings import Settings, place_of, root
from mllm_eval.leaks.hashes import NAME
from mllm_eval.leaks.hashing import Hashed, hash_corpus
from mllm_eval.leaks.matching import Tolerance
from mllm_eval.leaks.trainingsets import Read, TrainingSets, identity_of
from mllm_eval.progress import Progress, unheard
from mllm_eval.storage import read_json, write_json

Step = Callable[[str], AbstractContextManager[Progress]]
"""Begins a step with this title, and gives the function that is told of its progress."""


@contextmanager
def silent(_: str) -> Iterator[Progress]:
    """A step that nobody is told of."""
    yield unheard


@dataclass(frozen=True)
class SearchSource:
    """What is searched: a corpus, the folder of its files, its hashes, and its rows."""

    corpus: SearchedCorpus
    folder: Path
    hashed: Hashed
    read: Read

    @property
    def own(self) -> TrainingSets | None:
        """The training sets, if they are searched."""
        return self.corpus if isinstance(self.corpus, TrainingSets) else None


def hold_in_range(tolerance: Tolerance) -> None:
    """Raise UserError for a radius or a share of false alarms that can't be."""
    radius, alarm = tolerance
    if not 0 <= radius <= 20 or not 0 < alarm < 1:
        raise UserError(f"radius {radius}, alarm {alarm}: give a radius of 0 to 20 bits and a share between 0 and 1")


def settings_of(encoder: Encoder, tolerance: Tolerance, views: int, most: int) -> Settings:
    """The settings as they are noted. Raises UserError for a value out of range."""
    hold_in_range(tolerance)
    radius, alarm = tolerance
    return Settings(hash=NAME, views=views, radius=radius, encoder=encoder.name, weights=encoder.weights.digest(),
                    alarm=alarm, most=most)  # fmt: skip


def hashed_source(source: Recipe | Path, step: Step, say: Callable[[str], None]) -> SearchSource:
    """Hashes what is not hashed yet; findings on images that have changed since are removed.

    Raises UserError for missing data, or if no image can be read.
    """
    read = Read(0, 0, ())
    corpus: SearchedCorpus
    if isinstance(source, Recipe):
        folder = place_of(source.name, identity_of(source))
        corpus = sets = TrainingSets(source, folder)
        with step("leaks: rows (names)") as told:
            read = sets.read(folder, told)
        if read.broken:
            say(f"{sets.name}: {read.broken:,} rows can't be read and are left out: {read.reasons[0]}")
    else:
        corpus = images = Folder(source)
        folder = place_of(images.name, images.identity)
        if images.left_out:
            say(f"{images.name}: {len(images.left_out):,} parquet files describe the tars or folders beside them, hold "
                f"no images, and are not read: {images.left_out[0]}")  # fmt: skip
    with step(f"leaks: {corpus.name} (hashes)") as told:
        hashed = hash_corpus(corpus, folder / "hashes", told)
    noted, now = folder / "corpus.json", {"name": corpus.name, "images": hashed.images, "broken": hashed.broken,
                                          "identity": corpus.identity, "state": hashed.state}  # fmt: skip
    if not noted.is_file() or read_json(noted) != now:
        # Findings on images that have changed must not remain, nor thumbnails, which are named by an image's number.
        for stale in (folder / "found", folder / "against", *root().glob(f"*/against/{folder.name}")):
            shutil.rmtree(stale, ignore_errors=True)
        write_json(noted, now)
    if hashed.broken:
        say(f"{corpus.name}: {hashed.broken:,} images or shards can't be read and are left out: {hashed.reasons[0]}")
    if not len(hashed.hashes):
        raise UserError(
            f"{corpus.name}: none of its images can be read" + "".join(f"; {one}" for one in hashed.reasons[:1])
        )
    return SearchSource(corpus, folder, hashed, read)
