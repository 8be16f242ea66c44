"""Surveys a part of a training set's images: rotated, 16- or 32-bit, transparent and broken ones.

A training set has millions of images. A pseudo-random part, the same each time, is decoded for at most a minute. It
shows which kinds there are and how common they are, but not that all other images can be read.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from mllm_eval.catalog.recipe import ConversationData
from mllm_eval.data.conversations import ConversationSet
from mllm_eval.decoding import Decoding, Peculiar, decoders, peculiar
from mllm_eval.errors import UserError
from mllm_eval.progress import Progress, unheard
from mllm_eval.storage import locate

ROWS, SECONDS = 2_000, 60.0
# Rows whose images are decoded between two checks of the time.
AT_ONCE = 64
NAMED = 3


@dataclass
class TrainingSurvey:
    """Result of a survey: rows in total (`of`) and examined, images, and the names of the images of each kind.

    kinds: names by kind. broken: error messages of all images and rows that can't be read.
    """

    name: str
    of: int
    how: Decoding
    rows: int = 0
    images: int = 0
    kinds: dict[str, list[str]] = field(default_factory=lambda: {"tagged": [], "deep": [], "clear": []})
    broken: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """The counts as text, with what training does to each kind."""
        part = f"{self.rows:,} of {self.of:,} rows, " if self.rows < self.of else ""
        clear = f"laid on {self.how.background}" if self.how.background else "alpha dropped"
        said = [
            f"{part}{self.images:,} images",
            self._counted("tagged", "with an orientation tag", "turned" if self.how.upright else "not turned"),
            self._counted("deep", "of 16- or 32-bit grey", "scaled to 8"),
            self._counted("clear", "transparent", clear),
        ]
        if self.broken:
            said.append(f"{len(self.broken):,} images or rows that can't be read")
        return ", ".join(said)

    def _counted(self, kind: str, words: str, done: str) -> str:
        counted = self.kinds[kind]
        if not counted:
            return f"0 {words}"
        more = ", ..." if len(counted) > NAMED else ""
        return f"{len(counted):,} {words} ({done}; {', '.join(counted[:NAMED])}{more})"

    def fault(self, skipped: int) -> str:
        """One line about what can't be read, if that is more than the recipe skips; otherwise empty."""
        if len(self.broken) <= skipped:
            return ""
        looked = (
            f"{self.rows:,} of {self.of:,} rows that were looked at" if self.rows < self.of else f"{self.of:,} rows"
        )
        more = ", ..." if len(self.broken) > 1 else ""
        return (
            f"{self.name}: {len(self.broken):,} images or rows can't be read, in {looked}: {self.broken[0]}{more}; "
            "mend or remove them, or let the recipe leave out so many (`skip_broken`)"
        )


def training_survey(
    data: ConversationData,
    how: Decoding,
    told: Progress = unheard,
    clock: Callable[[], float] = monotonic,
) -> TrainingSurvey:
    """Decode the images of at most `ROWS` rows of a training set, for about `SECONDS` seconds at most.

    Raises:
        UserError: the file is missing, is in another format, or has not as many rows as the recipe says.
    """
    end = clock() + SECONDS
    with (
        TemporaryDirectory() as index,
        ThreadPoolExecutor(decoders()) as hands,
    ):
        rows = ConversationSet(
            locate(data.path), locate(data.images), data.rows, data.exclude, index=Path(index), ignore=data.ignore
        )
        survey = TrainingSurvey(rows.path.name, len(rows), how)
        chosen = sorted(random.Random(0).sample(range(len(rows)), min(ROWS, len(rows))))
        seen: set[str] = set()
        for start in range(0, len(chosen), AT_ONCE):
            if start and clock() > end:
                break
            some = chosen[start : start + AT_ONCE]
            shown = _shown(rows, some, seen, survey)
            for (name, _), looked in zip(shown, hands.map(partial(_looked, rows), shown), strict=True):
                if isinstance(looked, UserError):
                    survey.broken.append(str(looked))
                    continue
                for kind, names in survey.kinds.items():
                    names += [name] if getattr(looked, kind) else []
            survey.rows += len(some)
            survey.images += len(shown)
            told(survey.rows, len(chosen))
    return survey


def _shown(rows: ConversationSet, some: list[int], seen: set[str], survey: TrainingSurvey) -> list[tuple[str, int]]:
    """The images of these rows that were not seen before, each with the number of its row."""
    shown = []
    for row in some:
        try:
            read = rows[row]
        except UserError as problem:
            survey.broken.append(str(problem))
            continue
        fresh = [] if rows.excludes(read) else [name for name in dict.fromkeys(read.images) if name not in seen]
        seen.update(fresh)
        shown += [(name, row) for name in fresh]
    return shown


def _looked(rows: ConversationSet, shown: tuple[str, int]) -> Peculiar | UserError:
    name, row = shown
    try:
        return peculiar(rows.image_path(name), f"{rows.where(row)}, {rows.image_path(name)}")
    except UserError as problem:
        return problem
