"""The findings as files: counts per benchmark, leaked samples, both images of each pair, and questions.

They are under results/leaks/NAME-HASH/found/PIN. BENCHMARK.json is written last, and identifies what the others were
computed from.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mllm_eval.catalog.recipe import Recipe
from mllm_eval.config import Strict, short_hash, validate
from mllm_eval.errors import UserError, near
from mllm_eval.storage import iter_jsonl, read_json, results_home

Kind = Literal["pictures", "questions", "both", "either"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OWN = "training"
"""The name of a run's own training data among the searched corpora."""


PICTURED = 60
"""How many of the most similar pairs have thumbnails, of each benchmark and of each folder."""


class Settings(Strict):
    """The settings of a search.

    radius: largest distance in bits between the hashes of candidates. alarm: share of different pairs that may exceed
    the threshold. most: number of nearest candidates that are compared for each image.
    """

    hash: str
    views: int
    radius: int
    encoder: str
    weights: str
    alarm: float
    most: int


class Counts(Strict):
    """What every comparison of images counts.

    of: hash of everything that was searched, settings included. images, broken_images, broken_rows: of what is
    searched; the `_first` fields name the first of the broken ones. candidates: pairs with similar hashes; looked_at:
    those whose features were compared.

    different: pairs known to be different; alarm: the share of them above `threshold`. Both alarm and threshold are
    None if there are too few images to calibrate; nothing is then confirmed. pairs: confirmed pairs.
    """

    of: str
    settings: Settings
    images: int
    broken_images: int
    broken_images_first: tuple[str, ...]
    broken_rows: int
    broken_rows_first: tuple[str, ...]
    candidates: int
    looked_at: int
    different: int
    threshold: float | None
    alarm: float | None
    pairs: int


class Found(Counts):
    """The counts of a benchmark. Its images are searched for in a corpus.

    pictures, broken_pictures: of the benchmark. leaked: kind -> number of samples. asked: distinct questions; standing:
    those found in the training text (None if the corpus has no text).
    """

    benchmark: str
    data: str
    corpus: str
    samples: int
    pictures: int
    broken_pictures: int
    broken_pictures_first: tuple[str, ...]
    leaked_pictures: int
    asked: int
    standing: int | None
    leaked: dict[Kind, int]


class Overlap(Counts):
    """The counts of training images that occur in a folder of images.

    others, broken_others: of the folder. copied: training images with a confirmed pair.
    """

    recipe: str
    against: str
    others: int
    broken_others: int
    broken_others_first: tuple[str, ...]
    copied: int


@dataclass(frozen=True, slots=True)
class Overlapping:
    """The training images of a recipe that occur in a folder of images. `folder` holds the files."""

    folder: Path
    counts: Overlap

    def pairs(self) -> Iterator[dict[str, Any]]:
        """The confirmed pairs, most similar first: image, where, other, other_where, distance, similarity."""
        return iter_jsonl(self.folder / "pairs.jsonl")


def overlaps_of(recipe: Recipe) -> list[Overlapping]:
    """The folders that a recipe's training images were compared with. Raises UserError as `findings_of` does."""
    from mllm_eval.leaks.trainingsets import identity_of

    paths = sorted(root().glob(f"{glob.escape(recipe.name)}-*/against/*/counts.json"))
    own = place_of(recipe.name, identity_of(recipe)) if paths else None
    return [Overlapping(path.parent, validate(read_json(path), Overlap, str(path))) for path in paths
            if path.parents[2] == own]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Findings:
    """All findings for one corpus and data pin. `folder` holds the files."""

    folder: Path
    benchmarks: dict[str, Found]

    @property
    def corpus(self) -> str:
        """The name of the corpus."""
        return next(iter(self.benchmarks.values())).corpus

    def leaked(self, benchmark: str, kind: Kind = "pictures") -> set[str]:
        """The ids of a benchmark's leaked samples of this kind."""
        return {str(row["id"]) for row in self._rows(benchmark, "samples") if _is(row, kind)}

    def pairs(self, benchmark: str) -> Iterator[dict[str, Any]]:
        """The confirmed pairs, most similar first: picture, samples, view, distance, similarity, image, where."""
        return self._rows(benchmark, "pairs")

    def questions(self, benchmark: str) -> Iterator[dict[str, Any]]:
        """The questions found in the training text: question, samples, rows (number of rows), where (the first row)."""
        return self._rows(benchmark, "questions")

    def _rows(self, benchmark: str, what: str) -> Iterator[dict[str, Any]]:
        return iter_jsonl(self.folder / f"{benchmark}.{what}.jsonl")


def _is(row: dict[str, Any], kind: Kind) -> bool:
    picture, question = bool(row["picture"]), bool(row["question"])
    return {"pictures": picture, "questions": question, "both": bool(row["both"]), "either": picture or question}[kind]


def root() -> Path:
    """The folder of all findings."""
    return results_home() / "leaks"


def place_of(name: str, identity: Any) -> Path:
    """The folder of a corpus, from its name and a hash of its identity."""
    return root() / f"{name}-{short_hash(identity)}"


def read_findings(folder: Path, pin: str) -> Findings | None:
    """The findings in a corpus's folder for a pin; None if there are none. Raises UserError for a damaged file."""
    where = folder / "found" / pin
    by_benchmark = {path.stem: validate(read_json(path), Found, str(path)) for path in sorted(where.glob("*.json"))}
    return Findings(where, by_benchmark) if by_benchmark else None


def searched_folders() -> list[Path]:
    """The folders of the findings on folders of images (`--against`). Raises UserError for a damaged file."""
    noted = ((path.parent, read_json(path)) for path in sorted(root().glob("*/corpus.json")))
    return [folder for folder, one in noted if isinstance(one, dict) and (one.get("identity") or [""])[0] == "folder"]


def findings_of(recipe: Recipe | None, pin: str, corpus: str = OWN) -> Findings | None:
    """The findings for a recipe's own training data, or for another corpus by its folder's name; None without any.

    Raises UserError, with similar names, for a corpus that was never searched; also if a recipe's training data are
    missing, since it is then unknown whether they are the data that were searched.
    """
    known = [path.name for path in sorted(root().glob("*")) if (path / "found").is_dir()]
    if corpus == OWN:
        if recipe is None or not any(_named(name) == recipe.name for name in known):
            return None
        from mllm_eval.leaks.trainingsets import identity_of

        return read_findings(place_of(recipe.name, identity_of(recipe)), pin)
    chosen = [name for name in known if corpus in (name, _named(name))]
    if len(chosen) != 1:
        many = "is not one of" if not chosen else "fits several of"
        close = "" if chosen else near(corpus, {OWN, *known, *map(_named, known)})
        raise UserError(f"{corpus!r} {many} what `mllm-eval leaks` has looked through.{close} "
                        f"Known: {', '.join([OWN, *known])}")  # fmt: skip
    return read_findings(root() / chosen[0], pin)


def _named(folder: str) -> str:
    return folder.rpartition("-")[0]
