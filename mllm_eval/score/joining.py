"""Matches the lines of another harness's file to samples, by their numbers and never by their order.

A harness numbers answers by ids, rows of the data set, or questions asked, from 0 or 1. A numbering is accepted if
every number exists in this data set and everything that the lines say about their questions agrees with the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from mllm_eval.catalog.benchmark import Benchmark
from mllm_eval.data.samples import Samples
from mllm_eval.errors import UserError, near
from mllm_eval.score.agreement import Known, disagreement, known, number_or_text
from mllm_eval.score.answerfiles import AnswerLine

Numbering = Literal["id", "own id", "row", "question", "row from 1", "question from 1"]
NUMBERINGS: dict[str, tuple[Numbering, ...]] = {
    "cambrian": ("row", "question", "id"),
    "lmms_eval": ("own id", "row", "question"),
    "vlmevalkit": ("own id", "id", "row", "question", "row from 1", "question from 1"),
}
"""What the numbers in a layout may mean, most usual first."""

# If a file is incomplete and its numbers are ambiguous, this many agreeing questions decide the numbering.
_EVIDENCE = 10


def join(
    benchmark: Benchmark, lines: Sequence[AnswerLine], samples: Samples, numberings: Sequence[Numbering]
) -> list[AnswerLine]:
    """Return the lines with their samples' ids, without the lines of rows that the benchmark does not ask.

    numberings: what the numbers of this layout may mean, most usual first.

    Raises:
        UserError: a repeated number, a number without a sample, or a line whose question or gold answer differs from
            the sample's; names the line and both texts.
    """
    _no_repeats(lines)
    data = _Data(benchmark, samples)
    fitting = {numbering: places for numbering in numberings if (places := data.places(lines, numbering)) is not None}
    if not fitting:
        _say_strange(benchmark, lines, data, numberings)
    whole = [numbering for numbering, places in fitting.items() if len(places) - places.count(None) == len(samples)]
    problems: dict[Numbering, str] = {}
    for numbering in dict.fromkeys([*whole, *fitting]):
        places = fitting[numbering]
        problem = data.problem(lines, places)
        if problem is None and (numbering in whole or numbering == next(iter(fitting)) or _evident(lines)):
            kept = ((line, place) for line, place in zip(lines, places, strict=True) if place is not None)
            return [line.of(data.ids[place]) for line, place in kept]
        problems.setdefault(numbering, problem or "")
    raise UserError(next(problem for problem in problems.values() if problem))


def agree(benchmark: Benchmark, lines: Sequence[AnswerLine], samples: Samples) -> None:
    """Raise UserError if a line of this project's layout contradicts the sample with its id."""
    if any(line.says_something for line in lines):
        data = _Data(benchmark, samples)
        places = [data.exact.get(line.id) for line in lines]
        if (problem := data.problem(lines, places)) is not None:
            raise UserError(problem)


class _Data:
    """Looks up samples by each possible meaning of a number."""

    def __init__(self, benchmark: Benchmark, samples: Samples) -> None:
        self._settings = benchmark.settings
        self._samples = samples
        self.ids = [sample.id for sample in samples.kept]
        self.exact = {id_: place for place, id_ in enumerate(self.ids)}
        self._known: dict[int, Known] = {}

    def places(self, lines: Sequence[AnswerLine], numbering: Numbering) -> list[int | None] | None:
        """Index of each line's sample, None for a row that is not asked; None overall if a number has no sample."""
        place_of = self._reader(numbering)
        places: list[int | None] = []
        for line in lines:
            try:
                places.append(place_of(line))
            except (LookupError, ValueError):
                return None
        taken = [place for place in places if place is not None]
        return places if len(set(taken)) == len(taken) else None

    def _reader(self, numbering: Numbering) -> Callable[[AnswerLine], int | None]:
        if numbering in ("id", "own id"):
            plain: dict[str, int] = {}
            for id_, place in self.exact.items():
                key = number_or_text(id_)
                # Ids that differ only in zeros are ambiguous here, and are only found as written.
                plain[key] = -1 if key in plain else place

            def by_id(line: AnswerLine) -> int:
                written = line.id if numbering == "id" else line.says.own_id
                if written is None:
                    raise LookupError
                place = self.exact.get(written, plain.get(number_or_text(written), -1))
                if place < 0:
                    raise LookupError
                return place

            return by_id
        rows = numbering.startswith("row")
        first = 1 if numbering.endswith("1") else 0
        known_rows = dict(zip(self._samples.row_numbers(), range(len(self.ids)), strict=True)) if rows else {}

        def by_number(line: AnswerLine) -> int | None:
            number = int(number_or_text(line.id)) - first
            if not 0 <= number < (self._samples.rows if rows else len(self.ids)):
                raise LookupError
            return known_rows.get(number) if rows else number

        return by_number

    def problem(self, lines: Sequence[AnswerLine], places: Sequence[int | None]) -> str | None:
        """An error message for the first line that contradicts its sample; None if all agree."""
        for line, place in zip(lines, places, strict=True):
            if place is None or not line.says_something:
                continue
            if place not in self._known:
                self._known[place] = known(self._samples[place], self._settings)
            if (contradiction := disagreement(line.says, self._known[place])) is not None:
                what, said, own = contradiction
                return (
                    f"{line.where}: its {what} is not that of sample '{self.ids[place]}': {_short(said)} there, "
                    f"{_short(own)} here; another order, numbering, release or --variant?"
                )
        return None


def _evident(lines: Sequence[AnswerLine]) -> bool:
    return len(lines) >= _EVIDENCE and all(line.says.question or line.says.prompt for line in lines)


def _no_repeats(lines: Sequence[AnswerLine]) -> None:
    first: dict[str, AnswerLine] = {}
    for line in lines:
        if (before := first.setdefault(line.id, line)) is not line:
            raise UserError(f"{line.where}: id '{line.id}' occurs twice (first at {before.where})")


def _say_strange(
    benchmark: Benchmark, lines: Sequence[AnswerLine], data: _Data, numberings: Sequence[Numbering]
) -> None:
    """Raise UserError for the first line whose number has no sample under any numbering."""
    for line in lines:
        if all(data.places([line], numbering) is None for numbering in numberings):
            raise UserError(
                f"{line.where}: {line.key} '{line.id}' is no sample's id, and numbers no row of {benchmark.name} "
                f"({len(lines)} answers to {len(data.ids)} samples){near(line.id, data.ids)}"
            )
    raise UserError(
        f"{lines[0].where}: the column '{lines[0].key}' mixes ids with numbers of rows, or counts beyond the "
        f"{len(data.ids)} questions of {benchmark.name}; another data set, or files joined?"
    )


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return repr(plain if len(plain) <= 80 else f"{plain[:77]}...")
