"""What was found, as files: counts of a benchmark, its leaked samples, both pictures of each pair, its questions.

They lie under results/leaks/NAME-HASH/found/PIN: BENCHMARK.json is written last, and says what the others were made of.
"""

from __future__ import annotations

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
"""What names a run's own training data among the places that were looked through."""


class Settings(Strict):
    """How it was looked.

    radius: bits in which hashes of candidates differ at most. alarm: share of different pairs that may pass the
    threshold. most: candidates of a picture that are looked at, its nearest.
    """

    hash: str
    views: int
    radius: int
    encoder: str
    weights: str
    alarm: float
    most: int


class Found(Strict):
    """A benchmark's counts.

    of: what was looked at, settings included. images, broken_images: of the corpus. pictures, broken_pictures: of the
    benchmark. candidates: pairs near by their hashes; looked_at: those of them that features were compared of.
    different, alarm: pairs known to be different, and the share of them over `threshold` (None: too few pictures to
    say, nothing is confirmed). pairs: confirmed ones. leaked: samples by kind. asked, standing: distinct questions,
    and those found in the training text (None where a corpus has no text).
    """

    benchmark: str
    data: str
    corpus: str
    of: str
    settings: Settings
    images: int
    broken_images: int
    broken_images_first: tuple[str, ...]
    broken_rows: int
    broken_rows_first: tuple[str, ...]
    samples: int
    pictures: int
    broken_pictures: int
    broken_pictures_first: tuple[str, ...]
    candidates: int
    looked_at: int
    different: int
    threshold: float | None
    alarm: float | None
    pairs: int
    leaked_pictures: int
    asked: int
    standing: int | None
    leaked: dict[Kind, int]


@dataclass(frozen=True, slots=True)
class Findings:
    """All that was found of a corpus and a data pin. `folder` holds its files."""

    folder: Path
    benchmarks: dict[str, Found]

    @property
    def corpus(self) -> str:
        """What was looked through."""
        return next(iter(self.benchmarks.values())).corpus

    def leaked(self, benchmark: str, kind: Kind = "pictures") -> set[str]:
        """The ids of a benchmark's leaked samples."""
        return {str(row["id"]) for row in self._rows(benchmark, "samples") if _is(row, kind)}

    def pairs(self, benchmark: str) -> Iterator[dict[str, Any]]:
        """Confirmed pairs, the most similar first: picture, samples, view, distance, similarity, image, where."""
        return self._rows(benchmark, "pairs")

    def questions(self, benchmark: str) -> Iterator[dict[str, Any]]:
        """Questions that stand in the training text: question, samples, rows (how many), where (the first)."""
        return self._rows(benchmark, "questions")

    def _rows(self, benchmark: str, what: str) -> Iterator[dict[str, Any]]:
        return iter_jsonl(self.folder / f"{benchmark}.{what}.jsonl")


def _is(row: dict[str, Any], kind: Kind) -> bool:
    picture, question = bool(row["picture"]), bool(row["question"])
    return {"pictures": picture, "questions": question, "both": bool(row["both"]), "either": picture or question}[kind]


def root() -> Path:
    """Where all findings are."""
    return results_home() / "leaks"


def place_of(name: str, identity: Any) -> Path:
    """The folder of a corpus: its name and what it is."""
    return root() / f"{name}-{short_hash(identity)}"


def read_findings(folder: Path, pin: str) -> Findings | None:
    """What was found of a corpus' folder and a pin; None where nothing was. Raises UserError for a damaged file."""
    where = folder / "found" / pin
    by_benchmark = {path.stem: validate(read_json(path), Found, str(path)) for path in sorted(where.glob("*.json"))}
    return Findings(where, by_benchmark) if by_benchmark else None


def findings_of(recipe: Recipe | None, pin: str, corpus: str = OWN) -> Findings | None:
    """What was found of a recipe's own training data, or of another corpus by its folder's name; None for nothing.

    Raises UserError, with the nearest name, for a corpus that was never looked through, and where a recipe's training
    data are not here, so that nothing says whether they are those that were looked through.
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
        raise UserError(f"{corpus!r} {many} what `mllm-eval leaks` has looked through.{near(corpus, known)} "
                        f"Known: {', '.join([OWN, *known])}")  # fmt: skip
    return read_findings(root() / chosen[0], pin)


def _named(folder: str) -> str:
    return folder.rpartition("-")[0]
