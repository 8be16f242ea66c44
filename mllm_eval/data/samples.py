"""What the rest of the project sees of a benchmark's row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import PIL.Image


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image by its content.

    sha256: 64 hex digits, the key of the feature store: the digest of the encoded bytes as they stand in the data set,
        unless decoding turns, scales or composites them (`mllm_eval.decoding.pixels_key`).
    load: decodes the image to RGB; raises UserError naming file and row when it is broken or too large.
    measure: width and height of what `load` gives, from the header alone where it can be; raises as `load` does.
    """

    sha256: str
    load: Callable[[], PIL.Image.Image]
    measure: Callable[[], tuple[int, int]] | None = None

    def size(self) -> tuple[int, int]:
        """Width and height in pixels. Raises UserError as `load` does."""
        return self.measure() if self.measure is not None else self.load().size


@dataclass(frozen=True, slots=True)
class Sample:
    """One question.

    id: unique in its benchmark. prompt: the user's text without `<image>` lines and without a template.
    target: the gold answer as text (to show, not to score).
    group: samples that are scored together (a pair, the rotations of a question).
    cluster: samples that are not independent, normally those on one image.
    record: the upstream row without image bytes; the scorers read it.
    """

    benchmark: str
    id: str
    images: tuple[ImageRef, ...]
    prompt: str
    target: str
    group: str
    cluster: str
    record: Mapping[str, Any]


class Picture(Protocol):
    """Where an image's bytes stand."""

    @property
    def sha256(self) -> str: ...
    @property
    def where(self) -> str: ...
    def encoded(self) -> bytes: ...
    def load(self) -> PIL.Image.Image: ...
    def size(self) -> tuple[int, int]: ...


Pictures = tuple[Picture, ...]


class Kept(NamedTuple):
    """What a row was read to; `row` is its number in the data set, from 0, those that are not asked counted."""

    row: int
    id: str
    pictures: Pictures
    prompt: str
    target: str
    group: str
    record: Mapping[str, Any]


class Samples(list[Sample]):
    """A benchmark's samples in the data set's order, and the rows they were read from."""

    def __init__(
        self,
        benchmark: str,
        kept: Sequence[Kept],
        clusters: Sequence[str],
        rows: int,
        pictures: Sequence[Pictures] | None = None,
    ) -> None:
        """`clusters` and `pictures` stand in the order of the samples; without `pictures` they have their own.

        `rows` is the number of the data set's rows, those that are not asked counted.
        """
        self.benchmark, self.kept, self.clusters, self.rows = benchmark, kept, clusters, rows
        shown = [one.pictures for one in kept] if pictures is None else pictures
        super().__init__(
            Sample(benchmark, one.id, tuple(map(_ref, own)), one.prompt, one.target, one.group, cluster, one.record)
            for one, own, cluster in zip(kept, shown, clusters, strict=True)
        )

    def showing(self, pictures: Sequence[Pictures]) -> Samples:
        """The same samples with other images."""
        return Samples(self.benchmark, self.kept, self.clusters, self.rows, pictures)

    def row_numbers(self) -> Iterator[int]:
        """The row of each sample in the data set, from 0, those that are not asked counted."""
        return (kept.row for kept in self.kept)


def _ref(picture: Picture) -> ImageRef:
    return ImageRef(picture.sha256, picture.load, picture.size)


def shown(several: Iterable[Sequence[Sample]]) -> list[ImageRef]:
    """The images that samples show, each once, where it is shown first."""
    refs: dict[str, ImageRef] = {}
    for samples in several:
        for sample in samples:
            for image in sample.images:
                refs.setdefault(image.sha256, image)
    return list(refs.values())
