"""The examples of a probe: images with a class, a mask or a depth map, listed on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from mllm_eval.data.images import CellPicture, FilePicture
from mllm_eval.data.samples import ImageRef
from mllm_eval.decoding import load_map, pixels_key
from mllm_eval.errors import UserError
from mllm_eval.shelf import Shelf

if TYPE_CHECKING:
    import PIL.Image

# The errors that a damaged image or map raises; any other error is a bug.
BROKEN = (UserError, OSError, ValueError)


class Example(NamedTuple):
    """An image and its target: `label` is its class, `map_path` its mask or depth file."""

    id: str
    picture: FilePicture | CellPicture
    label: int = -1
    map_path: str = ""

    def image(self) -> PIL.Image.Image:
        """The image in RGB. Raises UserError, which names the image, if it can't be decoded."""
        return self.picture.load()

    def values(self) -> NDArray[np.int64]:
        """The values int64 [H, W] of the mask or depth file.

        Raises UserError, which names the file, unless it is an image with one integer per pixel.
        """
        return load_map(Path(self.map_path))


def held_out(count: int, share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The indices, of `count` images, to train on, and those of a random `share` that is held out; both sorted.

    At least one is held out. The seed fixes which.
    """
    order = np.random.default_rng([seed, 1]).permutation(count).astype(np.int64)
    cut = max(1, round(share * count))
    return np.sort(order[cut:]), np.sort(order[:cut])


class Examples(Sequence[Example]):
    """The examples of a split. Memory holds 8 bytes per example, and the indices `kept` of a part."""

    def __init__(
        self, shelf: Shelf[Example], classes: Sequence[str] = (), kept: NDArray[np.int64] | None = None
    ) -> None:
        self._shelf = shelf
        self.classes = tuple(classes)
        self._kept = kept

    def __len__(self) -> int:
        return len(self._shelf) if self._kept is None else len(self._kept)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        number = range(len(self))[index]
        return self._shelf[number if self._kept is None else int(self._kept[number])]

    def __iter__(self) -> Iterator[Example]:
        # Without a part the shelf reads many at a time.
        return iter(self._shelf) if self._kept is None else (self[number] for number in range(len(self)))

    def split(self, share: float, seed: int) -> tuple[Examples, Examples]:
        """Splits the examples into a part to train on and a random `share` that is held out; fixed by the seed.

        Raises UserError if no example is left to train on.
        """
        learnt, held = held_out(len(self), share, seed)
        if not len(learnt):
            raise UserError(f"of {len(self):,} training images {len(held):,} are held out to choose a head, none is "
                            "left to train on; bring more images, or lower `holdout`")  # fmt: skip
        return self._part(learnt), self._part(held)

    def _part(self, places: NDArray[np.int64]) -> Examples:
        chosen = places if self._kept is None else self._kept[places]
        return Examples(self._shelf, self.classes, chosen)

    def labels(self) -> NDArray[np.int64]:
        """The class numbers, int64 [N]."""
        return np.fromiter((one.label for one in self), np.int64, len(self))


class Refs(Sequence[ImageRef]):
    """The examples' images as references for the feature store, each hashed once. Memory holds 32 bytes per image."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self.broken: dict[int, str] = {}
        self._keys = np.zeros((len(examples), 32), np.uint8)
        for number, one in enumerate(examples):
            try:
                self._keys[number] = np.frombuffer(bytes.fromhex(pixels_key(one.picture.encoded())), np.uint8)
            except BROKEN as problem:
                self.broken[number] = str(problem)

    def __len__(self) -> int:
        return len(self._examples)

    def key(self, index: int) -> str:
        """The key of an image in the feature store: 64 hex digits."""
        key: str = self._keys[index].tobytes().hex()
        return key

    @overload
    def __getitem__(self, index: int) -> ImageRef: ...
    @overload
    def __getitem__(self, index: slice) -> list[ImageRef]: ...
    def __getitem__(self, index: int | slice) -> ImageRef | list[ImageRef]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        picture = self._examples[index].picture
        return ImageRef(self.key(index), picture.load, picture.size)
