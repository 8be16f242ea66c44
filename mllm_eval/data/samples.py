"""What the rest of the project sees of a benchmark's row."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, overload

from mllm_eval.shelf import Shelf

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
    """Where an image's bytes stand, in a form that can be kept on disk."""

    @property
    def sha256(self) -> str: ...
    @property
    def where(self) -> str: ...
    def encoded(self) -> bytes: ...
    def load(self) -> PIL.Image.Image: ...
    def size(self) -> tuple[int, int]: ...


Pictures = tuple[Picture, ...]


class Kept(NamedTuple):
    """A sample as it lies on the shelf; `row` is its row in the data set, from 0, those that are not asked counted."""

    row: int
    id: str
    pictures: Pictures
    prompt: str
    target: str
    group: str
    record: Mapping[str, Any]


class Samples(Sequence[Sample]):
    """A benchmark's samples in the data set's order, kept on disk.

    Memory holds 24 bytes of each at most. A sample is made when it is asked for; go through all of them rather than
    ask for each by its number, where all are needed.
    """

    def __init__(
        self,
        benchmark: str,
        kept: Shelf[Kept],
        clusters: Sequence[str],
        rows: int,
        pictures: Sequence[Pictures] | None = None,
    ) -> None:
        """`clusters` and `pictures` stand in the order of the samples; without `pictures` they have their own.

        `rows` is the number of the data set's rows, those that are not asked counted.
        """
        self.benchmark = benchmark
        self.rows = rows
        self.kept = kept
        self.clusters = clusters
        self.pictures = pictures

    def showing(self, pictures: Sequence[Pictures]) -> Samples:
        """The same samples with other images."""
        return Samples(self.benchmark, self.kept, self.clusters, self.rows, pictures)

    def row_numbers(self) -> Iterator[int]:
        """The row of each sample in the data set, from 0, those that are not asked counted."""
        return (kept.row for kept in self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        kept = self.kept[index]
        pictures = kept.pictures if self.pictures is None else self.pictures[index]
        return self._sample(kept, self.clusters[index], pictures)

    def __iter__(self) -> Iterator[Sample]:
        if self.pictures is None:
            for kept, cluster in zip(self.kept, self.clusters, strict=True):
                yield self._sample(kept, cluster, kept.pictures)
        else:
            for kept, cluster, pictures in zip(self.kept, self.clusters, self.pictures, strict=True):
                yield self._sample(kept, cluster, pictures)

    def _sample(self, kept: Kept, cluster: str, pictures: Pictures) -> Sample:
        images = tuple(ImageRef(picture.sha256, picture.load, picture.size) for picture in pictures)
        return Sample(self.benchmark, kept.id, images, kept.prompt, kept.target, kept.group, cluster, kept.record)


class Shown(Sequence[ImageRef]):
    """The images that samples show, each once, where it is shown first; memory holds 16 bytes of each.

    An image is made anew when it is asked for, with its sample.
    """

    def __init__(self, several: Sequence[Sequence[Sample]]) -> None:
        self._several = several
        self._places = array("Q")
        seen: set[int] = set()
        for part, samples in enumerate(several):
            for number, sample in enumerate(samples):
                for at, image in enumerate(sample.images):
                    # 64 bits of a SHA-256: two images of a million are taken for one with a chance of 3 in 10^8.
                    if (key := hash(image.sha256)) not in seen:
                        seen.add(key)
                        self._places.extend((part << 32 | number, at))

    def __len__(self) -> int:
        return len(self._places) // 2

    @overload
    def __getitem__(self, index: int) -> ImageRef: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageRef]: ...
    def __getitem__(self, index: int | slice) -> ImageRef | list[ImageRef]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        where, at = self._places[2 * number], self._places[2 * number + 1]
        return self._several[where >> 32][where & 0xFFFFFFFF].images[at]
