"""Samples: the form in which the rest of the project uses a benchmark's rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import PIL.Image


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image, identified by its content.

    sha256: 64 hex digits, the key in the feature store. It is the digest of the encoded bytes as they are in the data
        set, unless decoding rotates, scales or composites the image (`mllm_eval.decoding.pixels_key`).
    load: decodes the image to RGB; raises UserError with file and row if it is broken or too large.
    measure: width and height of the image that `load` returns, from the header if possible; raises as `load` does.
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
    target: the gold answer as text (for display, not for scoring).
    group: name shared by samples that are scored together (a pair, the rotations of a question).
    cluster: name shared by samples that are not independent, normally those about one image.
    record: the upstream row without image bytes; scorers read it.
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
    """An encoded image at its place in a file."""

    @property
    def sha256(self) -> str: ...
    @property
    def where(self) -> str: ...
    def encoded(self) -> bytes: ...
    def load(self) -> PIL.Image.Image: ...
    def size(self) -> tuple[int, int]: ...


Pictures = tuple[Picture, ...]


class Kept(NamedTuple):
    """A row after reading. `row` is its number in the data set, from 0; rows that are not asked count."""

    row: int
    id: str
    pictures: Pictures
    prompt: str
    target: str
    group: str
    record: Mapping[str, Any]


class Samples(list[Sample]):
    """A benchmark's samples in the order of the data set, with the rows they were read from."""

    def __init__(
        self,
        benchmark: str,
        kept: Sequence[Kept],
        clusters: Sequence[str],
        rows: int,
        pictures: Sequence[Pictures] | None = None,
    ) -> None:
        """clusters, pictures: one entry per sample. Without `pictures`, samples have their own.

        rows: number of rows in the data set; rows that are not asked count.
        """
        self.benchmark, self.kept, self.clusters, self.rows = benchmark, kept, clusters, rows
        shown = [one.pictures for one in kept] if pictures is None else pictures
        super().__init__(
            Sample(benchmark, one.id, tuple(map(_ref, own)), one.prompt, one.target, one.group, cluster, one.record)
            for one, own, cluster in zip(kept, shown, clusters, strict=True)
        )

    def showing(self, pictures: Sequence[Pictures]) -> Samples:
        """The same samples with other images, one entry per sample."""
        return Samples(self.benchmark, self.kept, self.clusters, self.rows, pictures)

    def row_numbers(self) -> Iterator[int]:
        """The row number of each sample in the data set, from 0; rows that are not asked count."""
        return (kept.row for kept in self.kept)


def _ref(picture: Picture) -> ImageRef:
    return ImageRef(picture.sha256, picture.load, picture.size)


def shown(several: Iterable[Sequence[Sample]]) -> list[ImageRef]:
    """The distinct images of samples, in order of first appearance."""
    refs: dict[str, ImageRef] = {}
    for samples in several:
        for sample in samples:
            for image in sample.images:
                refs.setdefault(image.sha256, image)
    return list(refs.values())
