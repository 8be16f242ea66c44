"""A recipe's training sets as a corpus: each image once, and the questions that occur in the rows.

Image names are not kept in memory: one pass stores a hash of 8 bytes for each name, and a name is read again when it is
needed.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mllm_eval.catalog.recipe import ConversationData, Recipe
from mllm_eval.data.conversations import Conversation, ConversationSet
from mllm_eval.decoding import Decoding
from mllm_eval.errors import UserError
from mllm_eval.leaks.corpora import PIECE, Shown, read_file, state_of
from mllm_eval.leaks.pieces import save, saved
from mllm_eval.leaks.questions import Questions
from mllm_eval.progress import Progress
from mllm_eval.storage import known_sha256, locate, write_atomic

# Rows per saved part, which is also how many rows a killed run may have to read again.
ROWS = 2**15
IMAGE = np.dtype([("key", "u8"), ("set", "u2"), ("row", "i8"), ("place", "u2")])
STANDS = np.dtype([("question", "u4"), ("key", "u8"), ("set", "u2"), ("row", "i8")])


class Read(NamedTuple):
    """The number of rows of all sets, how many of them can't be read, and the first reasons."""

    rows: int
    broken: int
    reasons: tuple[str, ...]


class TrainingSets:
    """The images of a recipe's training sets, of stages 1 and 2 together, as a `Corpus`.

    Call `read` first. Raises UserError for missing or malformed files.
    """

    def __init__(self, recipe: Recipe, folder: Path | None = None) -> None:
        self.name = recipe.name
        self.how = Decoding(recipe.upright, recipe.background)
        given = [*recipe.stage1.data, *recipe.stage2.data]
        self._given: list[ConversationData] = list(
            {(one.path, one.images, *one.exclude): one for one in given}.values()
        )
        index = folder / "index" if folder else None
        self._sets = [
            ConversationSet(locate(one.path), locate(one.images), None, one.exclude, index=index, ignore=one.ignore)
            for one in self._given
        ]
        self.identity: Any = identity_of(recipe)
        self._images: NDArray[Any] = np.zeros(0, IMAGE)

    @property
    def rows(self) -> int:
        """The number of rows of all sets."""
        return sum(len(one) for one in self._sets)

    def _parts(self) -> list[tuple[int, int]]:
        return [(number, start) for number, one in enumerate(self._sets) for start in range(0, len(one), ROWS)]

    def _read_part(self, number: int, start: int) -> Iterator[tuple[int, Conversation | UserError]]:
        rows = self._sets[number].read_from(start)
        for row, conversation in enumerate(islice(rows, ROWS), start):
            if conversation is not None:
                yield row, conversation

    def _key(self, number: int, name: str) -> int:
        root = str(self._sets[number].images)
        return int.from_bytes(blake2b(f"{root}\0{name}".encode(errors="replace"), digest_size=8).digest(), "big")

    def read(self, folder: Path, told: Progress) -> Read:
        """Lists each image once. It resumes after a kill without reading again what was saved."""
        parts, broken = self._parts(), 0
        reasons: list[str] = []
        for done, (number, start) in enumerate(parts):
            path = folder / "names" / f"{number}-{start:09d}.npz"
            if not path.is_file():
                save(path, self._listed(number, start))
            arrays = saved(path)
            broken += len(arrays["broken"])
            reasons += [str(one) for one in arrays["broken"][: max(0, 3 - len(reasons))]]
            told(done + 1, len(parts))
        target = folder / "names" / "images.npy"
        if not target.is_file():
            write_distinct([folder / "names" / f"{number}-{start:09d}.npz" for number, start in parts], target)
        self._images = np.load(target, mmap_mode="r")
        return Read(self.rows, broken, tuple(reasons))

    def _listed(self, number: int, start: int) -> dict[str, NDArray[Any]]:
        images: dict[int, tuple[int, int, int, int]] = {}
        broken: list[str] = []
        for row, read in self._read_part(number, start):
            if isinstance(read, UserError):
                broken.append(str(read))
                continue
            for place, name in enumerate(read.images):
                key = self._key(number, name)
                images.setdefault(key, (key, number, row, place))
        return {"images": np.array(list(images.values()), IMAGE), "broken": np.array(broken, np.str_)}

    @property
    def pieces(self) -> int:
        """The number of pieces, each of at most `PIECE` images."""
        return -(-len(self._images) // PIECE)

    def state(self, piece: int) -> str:
        """See `Corpus.state`."""
        return state_of(self._path(one) for one in self._images[piece * PIECE : (piece + 1) * PIECE])

    def _path(self, image: Any) -> Path:
        own = self._sets[int(image["set"])]
        return own.image_path(own[int(image["row"])].images[int(image["place"])])

    def images(self, piece: int, wanted: Collection[int] | None = None) -> Iterator[Shown]:
        """See `Corpus.images`. `where` is the first row that shows the image."""
        some = self._images[piece * PIECE : (piece + 1) * PIECE]
        for number in range(len(some)) if wanted is None else sorted(wanted):
            one = some[number]
            own, row = self._sets[int(one["set"])], int(one["row"])
            name = own[row].images[int(one["place"])]
            yield Shown(number, name, own.where(row), partial(read_file, own.image_path(name), own.where(row)))

    def key(self, image: int) -> int:
        """The key of an image in the array that `stands` returns."""
        return int(self._images["key"][image])

    def where(self, number: int, row: int) -> str:
        """`file:line` of a row of a set."""
        return self._sets[number].where(row)

    def stands(self, asked: Questions, folder: Path, told: Progress) -> NDArray[Any]:
        """Which questions occur in which rows, word for word: an array of `STANDS`.

        Its fields are the question's number, the key of the row's first image (0: none), the set and the row.
        Unreadable rows are skipped; `read` counts them.
        """
        parts, lists = self._parts(), []
        for done, (number, start) in enumerate(parts):
            path = folder / f"{number}-{start:09d}.npz"
            if not path.is_file():
                save(path, {"stands": self._standing(number, start, asked)})
            lists.append(saved(path)["stands"])
            told(done + 1, len(parts))
        return np.concatenate(lists) if lists else np.zeros(0, STANDS)

    def _standing(self, number: int, start: int, asked: Questions) -> NDArray[Any]:
        standing = []
        for row, read in self._read_part(number, start):
            if isinstance(read, UserError):
                continue
            key = self._key(number, read.images[0]) if read.images else 0
            texts = [text for turn in read.turns for text in turn]
            standing += [(question, key, number, row) for question in sorted(asked.found_in(texts))]
        return np.array(standing, STANDS)


def write_distinct(parts: Sequence[Path], target: Path) -> None:
    """Writes the images of the parts (arrays of `IMAGE`) to a .npy file, each key once, where it comes first.

    Memory holds 8 bytes a name, and a sorted copy of those keys that begin with the same four bits.
    """
    keys = np.concatenate([np.zeros(0, np.uint64), *(saved(path)["images"]["key"].copy() for path in parts)])
    first = np.zeros(len(keys), bool)
    # Keys are digests, so each range of them has about as many.
    edges = [part << 60 for part in range(16)]
    for low, high in zip(edges, [*(edge - 1 for edge in edges[1:]), 2**64 - 1], strict=True):
        among = np.flatnonzero((keys >= np.uint64(low)) & (keys <= np.uint64(high)))
        first[among[np.unique(keys[among], return_index=True)[1]]] = True
    del keys

    def content() -> Iterator[bytes]:
        head = io.BytesIO()
        about: Any = {
            "descr": np.lib.format.dtype_to_descr(IMAGE),
            "fortran_order": False,
            "shape": (int(first.sum()),),
        }
        np.lib.format.write_array_header_1_0(head, about)
        yield head.getvalue()
        at = 0
        for path in parts:
            images = saved(path)["images"]
            yield images[first[at : at + len(images)]].tobytes()
            at += len(images)

    write_atomic(target, content())


def identity_of(recipe: Recipe) -> Any:
    """Everything that determines a recipe's training images and texts, as plain data.

    These are its files by content, their image folders, and how images are decoded. Raises UserError if a file is
    missing.
    """
    given = {(one.path, one.images, *one.exclude): one for one in (*recipe.stage1.data, *recipe.stage2.data)}
    files = [[known_sha256(locate(one.path)), one.images, one.exclude, one.ignore] for one in given.values()]
    return ["recipe", files, recipe.upright, recipe.background]
