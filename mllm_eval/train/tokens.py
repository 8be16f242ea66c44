"""Conversations as token arrays: tokenised once for a recipe and an LLM, and mapped into memory after that."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mllm_eval.config import short_hash
from mllm_eval.data.conversations import Conversation, ConversationSet, load_image
from mllm_eval.data.samples import ImageRef
from mllm_eval.errors import UserError
from mllm_eval.prompts import conversation
from mllm_eval.storage import results_home, sha256_file

VERSION = 1
CHUNK = 1000


@dataclass(frozen=True)
class TokenisedSet:
    """The rows of a stage's data; arrays are mapped, not read.

    ids, targets: all tokens one after another (an image is one token), and whether each is learnt.
    offsets [n + 1]: where a row begins. image_offsets [n + 1], image_of: the images of a row, as numbers
    into `images` (path and sha256 of the file's bytes). first_target [n]: position of a row's first target.
    """

    ids: NDArray[np.int32]
    targets: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    image_offsets: NDArray[np.int64]
    image_of: NDArray[np.int64]
    first_target: NDArray[np.int64]
    images: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self, image_tokens: int) -> NDArray[np.int64]:
        """Tokens of each row with its images spread out, before any cut."""
        lengths: NDArray[np.int64] = np.diff(self.offsets) + np.diff(self.image_offsets) * (image_tokens - 1)
        return lengths

    def usable(self, image_tokens: int, max_length: int) -> NDArray[np.int64]:
        """The rows that have a target left after the cut to `max_length`."""
        first = self.first_target + np.diff(self.image_offsets) * (image_tokens - 1)
        return np.flatnonzero(first < max_length)

    def images_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The images of those rows, as numbers into `images`, in ascending order."""
        wanted = np.zeros(len(self), np.bool_)
        wanted[rows] = True
        return np.unique(self.image_of[np.repeat(wanted, np.diff(self.image_offsets))])

    def refs(self, numbers: NDArray[np.int64]) -> list[ImageRef]:
        """Those images, for extraction."""
        chosen = [self.images[number] for number in numbers]
        return [ImageRef(sha, lambda path=path: load_image(Path(path))) for path, sha in chosen]  # type: ignore[misc]


def segments(row: Conversation, template: str) -> Iterator[tuple[str, bool]]:
    """A conversation's text in pieces to tokenise one by one, as the prompt is at evaluation.

    What precedes an answer is one piece, so its tokens are those of the rendered prompt.
    """
    yield from conversation(template, list(row.turns), row.system)


def _encode(rows: Sequence[Conversation], tokenizer: Any, template: str) -> Iterator[tuple[list[int], list[bool]]]:
    pieces = [list(segments(row, template)) for row in rows]
    texts = [text for row in pieces for text, _ in row]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    for row in pieces:
        ids: list[int] = []
        targets: list[bool] = []
        for _, is_target in row:
            more = next(encoded)
            ids += more
            targets += [is_target] * len(more)
        yield ids, targets


def tokenise(sets: Sequence[ConversationSet], tokenizer: Any, tokenizer_digest: str, template: str) -> TokenisedSet:
    """The rows of all sets in order, from the cache where it has them (results/tokens/<key>).

    Raises UserError naming file and line of a broken row, and the image file a row names and that is missing.
    """
    key = short_hash(
        {
            "version": VERSION,
            "template": template,
            "tokenizer": tokenizer_digest,
            "sets": [[sha256_file(one.path), str(one.images.absolute())] for one in sets],
        },
        16,
    )
    folder = results_home() / "tokens" / key
    if not (folder / "images.json").is_file() or not _fresh(folder):
        _write(folder, sets, tokenizer, template)
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r")
        for name in ("ids", "targets", "offsets", "image_offsets", "image_of", "first_target")
    }
    images = [(path, sha) for path, sha, _, _ in json.loads((folder / "images.json").read_bytes())]
    return TokenisedSet(**arrays, images=images)


def _fresh(folder: Path) -> bool:
    """Whether every image file still is what it was when its bytes were hashed."""
    for path, _, size, changed in json.loads((folder / "images.json").read_bytes()):
        try:
            now = os.stat(path)
        except OSError:
            return False
        if (now.st_size, now.st_mtime_ns) != (size, changed):
            return False
    return True


def _rows(sets: Sequence[ConversationSet]) -> Iterator[tuple[str, list[Path], Conversation]]:
    for one in sets:
        for number, row in enumerate(one):
            yield one.where(number), [one.image_path(name) for name in row.images], row


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _write(folder: Path, sets: Sequence[ConversationSet], tokenizer: Any, template: str) -> None:
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    numbers: dict[Path, int] = {}
    images: list[tuple[str, str, int, int]] = []
    offsets, image_offsets, image_of, first_target = [0], [0], [], []
    with open(fresh / "ids.raw", "wb") as ids_file, open(fresh / "targets.raw", "wb") as targets_file:
        for chunk in _chunks(_rows(sets)):
            encoded = _encode([row for _, _, row in chunk], tokenizer, template)
            for (where, paths, _), (ids, targets) in zip(chunk, encoded, strict=True):
                for path in paths:
                    if path not in numbers:
                        numbers[path] = len(images)
                        images.append(_image(path, where))
                    image_of.append(numbers[path])
                image_offsets.append(len(image_of))
                ids_file.write(np.asarray(ids, np.int32).tobytes())
                targets_file.write(np.asarray(targets, np.bool_).tobytes())
                offsets.append(offsets[-1] + len(ids))
                first_target.append(targets.index(True))
    _save_raw(fresh, "ids", np.int32)
    _save_raw(fresh, "targets", np.bool_)
    for name, values in (
        ("offsets", offsets),
        ("image_offsets", image_offsets),
        ("image_of", image_of),
        ("first_target", first_target),
    ):
        np.save(fresh / f"{name}.npy", np.asarray(values, np.int64))
    (fresh / "images.json").write_text(json.dumps(images))
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(fresh, folder)


def _image(path: Path, where: str) -> tuple[str, str, int, int]:
    try:
        found = os.stat(path)
    except OSError:
        raise UserError(f"{where}: its image {path} does not exist; fetch it or remove the row") from None
    return str(path.absolute()), sha256_file(path), found.st_size, found.st_mtime_ns


def _save_raw(folder: Path, name: str, kind: type[np.generic]) -> None:
    raw = folder / f"{name}.raw"
    if raw.stat().st_size:
        np.save(folder / f"{name}.npy", np.memmap(raw, dtype=kind, mode="r"))
    else:
        np.save(folder / f"{name}.npy", np.zeros(0, kind))
    raw.unlink()
