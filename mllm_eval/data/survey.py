"""Surveys the decoded images of a benchmark: rotated, blank and broken ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

from mllm_eval.config import Strict, short_hash, validate
from mllm_eval.data.samples import Kept, Picture
from mllm_eval.decoding import decoders, orientation_tag
from mllm_eval.errors import UserError
from mllm_eval.progress import Progress, unheard
from mllm_eval.storage import data_home, read_json, write_json

# Images that are decoded per step, and number of samples that are named for each kind.
AT_ONCE = 64
NAMED = 3
# An image with fewer colours than this counts as blank.
COLOURS = 3


class Survey(Strict):
    """Counts of a benchmark's distinct images, and the ids of the first samples with a blank or broken one.

    of: hash of the images, by which a saved survey is recognised.
    """

    of: str
    images: int = 0
    tagged: int = 0
    flat: int = 0
    broken: int = 0
    flat_first: tuple[str, ...] = ()
    broken_first: tuple[str, ...] = ()

    def sentence(self) -> str:
        """The counts as text."""
        said = [f"{self.images:,} images", f"{self.tagged:,} with an orientation tag"]
        said.append(f"{self.flat:,} of fewer than {COLOURS} colours{_named(self.flat, self.flat_first)}")
        if self.broken:
            said.append(f"{self.broken:,} that can't be decoded{_named(self.broken, self.broken_first)}")
        return ", ".join(said)

    def fault(self, benchmark: str, samples: Iterable[Kept]) -> str:
        """One line about the broken images of these samples, with file, row and advice; empty if none are broken."""
        if not self.broken:
            return ""
        many = f"{self.broken:,} of {self.images:,} images can't be decoded"
        return (f"{benchmark}: {many}: {_reason(self.broken_first[0], samples)}{', ...' if self.broken > 1 else ''}; "
                "mend or replace them, or the questions that show them count as failed")  # fmt: skip


def _reason(name: str, samples: Iterable[Kept]) -> str:
    """Why a sample's image can't be decoded, with its place in a file."""
    shown = next((sample.pictures for sample in samples if sample.id == name), ())
    for picture in shown:
        try:
            picture.load()
        except UserError as problem:
            return str(problem)
    return f"sample {name!r}"


def known_survey(benchmark: str, pin: str) -> Survey | None:
    """The saved survey of a pin's images; None if there is none."""
    path = data_home() / "locks" / f"{benchmark}.{pin}.images.json"
    with suppress(UserError):
        return validate(read_json(path), Survey, str(path)) if path.is_file() else None
    return None


def survey(benchmark: str, pin: str, samples: Iterable[Kept], told: Progress = unheard) -> Survey:
    """Decode every image of a pin and count findings, or return the saved survey of the same images.

    The result is saved beside the locks if that folder is writable. told: called with (images decoded, all images).
    """
    shown = list(_firsts(samples))
    of = short_hash([picture.sha256 for _, picture in shown])
    path = data_home() / "locks" / f"{benchmark}.{pin}.images.json"
    if (before := known_survey(benchmark, pin)) is not None and before.of == of:
        return before
    result = _look(shown, of, told)
    with suppress(OSError):
        write_json(path, result.model_dump(mode="json"))
    return result


def _firsts(samples: Iterable[Kept]) -> Iterator[tuple[str, Picture]]:
    """Each distinct image, with the id of the first sample that shows it."""
    seen: set[str] = set()
    for sample in samples:
        for picture in sample.pictures:
            if picture.sha256 not in seen:
                seen.add(picture.sha256)
                yield sample.id, picture


def _look(shown: list[tuple[str, Picture]], of: str, told: Progress) -> Survey:
    tagged, done = 0, 0
    flat: list[str] = []
    broken: list[str] = []
    todo = iter(shown)
    with ThreadPoolExecutor(decoders()) as hands:
        while some := list(islice(todo, AT_ONCE)):
            for (name, _), (tag, blank) in zip(some, hands.map(_one, (picture for _, picture in some)), strict=True):
                tagged += tag
                flat += [name] if blank else []
                broken += [name] if blank is None else []
            told(done := done + len(some), len(shown))
    return Survey(
        of=of, images=len(shown), tagged=tagged, flat=len(flat), broken=len(broken), flat_first=tuple(flat[:NAMED]),
        broken_first=tuple(broken[:NAMED]),
    )  # fmt: skip


def _one(picture: Picture) -> tuple[bool, bool | None]:
    """Whether an image has an orientation tag, and whether it is blank (None if it can't be decoded)."""
    try:
        tag = orientation_tag(picture.encoded()) is not None
    except UserError:
        return False, None
    try:
        return tag, picture.load().getcolors(COLOURS - 1) is not None
    except UserError:
        return tag, None


def _named(count: int, first: tuple[str, ...]) -> str:
    return f" ({', '.join(first)}{', ...' if count > len(first) else ''})" if first else ""
