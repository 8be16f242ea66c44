"""The miniature's pretraining pictures as a corpus of files, and the part of it that a filter keeps.

A picture is named by its kind and number, and drawn again from that name: what a filter hands on is a list of keys.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from mllm_eval.errors import UserError, near
from mllm_eval.locks import made_whole
from mllm_eval.miniature.benchmarks.tables import png
from mllm_eval.miniature.reading import TRUTHS, VERSION, Progress, is_document
from mllm_eval.miniature.reading import has_text as reads
from mllm_eval.miniature.world import KINDS, Picture, draw
from mllm_eval.storage import (
    data_home,
    read_json,
    read_text,
    results_home,
    sha256_bytes,
    sha256_tree,
    write_atomic,
    write_json,
)

SERIES = "web"
"""No picture of it is among the training sets or the benchmarks, which have series of their own."""
PICTURES, SHARD = 24_000, 1_000
LEVELS = ("none", *TRUTHS)
LABELS = {"light": "text", "heavy": "document"}
"""Filter -> the field of a picture's .json that says what is true of it."""
KEYS, ABOUT = "keys.txt", "corpus.json"


def key_of(kind: str, index: int) -> str:
    """The key of a picture in the corpus."""
    return f"{kind}-{index:06d}"


def named(key: str) -> tuple[str, int]:
    """Kind and number of a key. Raises UserError for one that is none."""
    kind, _, index = key.rpartition("-")
    if kind not in KINDS or not index.isdigit():
        raise UserError(f"{key!r}: no picture of the miniature; its keys are such as {key_of('sign', 12)}")
    return kind, int(index)


def version(pictures: int = PICTURES) -> str:
    """Changes when the code that draws changes, or the number of pictures."""
    drawn = sha256_tree(Path(__file__).parent / "world", lambda path: path.suffix == ".py")
    return sha256_bytes(f"{drawn} {sha256_bytes(Path(__file__).read_bytes())} {pictures}".encode())[:16]


def build(home: Path | None = None, progress: Progress | None = None, pictures: int = PICTURES) -> Path:
    """Write `corpus/` under `home` (default: `data_home()`) unless it is there in this version; its path.

    WebDataset tars of a thousand pictures each, kinds in turn: KEY.png, KEY.txt (its caption) and KEY.json, whose
    fields `text` and `document` say whether something can be read in it, and whether it is a chart, a table or a form.
    """
    home = home or data_home()
    target = home / "corpus"
    with made_whole(target, VERSION, version(pictures)) as making:
        if making is not None:
            making.mkdir(parents=True)
            for number, start in enumerate(range(0, pictures, SHARD)):
                places = range(start, min(start + SHARD, pictures))
                with tarfile.open(making / f"{number:05d}.tar", "w") as archive:
                    for name, data in _members(places):
                        info = tarfile.TarInfo(name)
                        info.size = len(data)
                        archive.addfile(info, io.BytesIO(data))
                if progress is not None:
                    progress("corpus", min(start + SHARD, pictures), pictures)
    return target


def _members(places: Iterable[int]) -> Iterator[tuple[str, bytes]]:
    kinds = list(KINDS)
    for place in places:
        kind, index = kinds[place % len(kinds)], place // len(kinds)
        key, picture = key_of(kind, index), draw(SERIES, index, kind)
        yield f"{key}.png", png(picture.image, level=1)
        yield f"{key}.txt", picture.caption.encode()
        told = {"kind": kind, "text": reads(picture), "document": is_document(picture)}
        yield f"{key}.json", json.dumps(told).encode()


def true_keys(level: str, pictures: int = PICTURES) -> Iterator[str]:
    """The keys of the pictures that a filter without a mistake keeps, in the corpus's order; of `none` all."""
    kinds = list(KINDS)
    for place in range(pictures):
        kind, index = kinds[place % len(kinds)], place // len(kinds)
        if level == "none" or TRUTHS[level](draw(SERIES, index, kind)):
            yield key_of(kind, index)


def keep(level: str, keys: Iterable[str], by: str, folder: Path | None = None) -> Path:
    """Write the keys that a filter keeps, and who said so, where `load_pool` finds them; the folder.

    Raises UserError for an unknown level, keys of no picture, and where none is kept.
    """
    folder = folder or corpora() / level
    held = [key_of(*named(key)) for key in keys]
    if not held:
        raise UserError(f"{level}: nothing is kept, and nothing is left to train on")
    write_atomic(folder / KEYS, "".join(f"{key}\n" for key in held))
    digest = sha256_bytes("".join(held).encode())
    write_json(folder / ABOUT, {"level": level, "by": by, "kept": len(held), "keys": digest})
    return folder


def corpora() -> Path:
    """Where the lists of keys are."""
    return results_home() / "corpora"


@dataclass(frozen=True)
class Pool:
    """The pictures that a pretraining draws from. `name`: of the corpus. by_kind: numbers by kind."""

    name: str
    about: dict[str, object]
    by_kind: dict[str, Sequence[int]]

    def pictures(self, series: str, step: int, size: int, one_kind: bool) -> list[Picture]:
        """The pictures of a step: of all kinds as often as the corpus has them, or of one kind."""
        rng = Random(f"{self.name}/{series}/{step}")
        kinds = list(self.by_kind)
        shares = [len(numbers) for numbers in self.by_kind.values()]
        (kind,) = rng.choices(kinds, shares)
        of = [kind] * size if one_kind else rng.choices(kinds, shares, k=size)
        # One picture is no contrast to itself: none stands twice in a step while there are others.
        left = {name: rng.sample(numbers, min(size, len(numbers))) for name, numbers in self.by_kind.items()}
        found = []
        for name in of:
            left[name] = left[name] or rng.sample(self.by_kind[name], min(size, len(self.by_kind[name])))
            found.append(draw(SERIES, left[name].pop(), name))
        return found


def load_pool(name: str) -> Pool:
    """The corpus of that name under results/corpora, or in that folder. Raises UserError where there is none."""
    folder = Path(name).expanduser() if "/" in name else corpora() / name
    if not (folder / KEYS).is_file():
        hint = near(name, LEVELS)
        raise UserError(f"{folder}: no corpus here; `mllm-eval miniature corpus --level {name}` makes one.{hint}")
    by_kind: dict[str, list[int]] = {}
    for key in read_text(folder / KEYS).split():
        kind, index = named(key)
        by_kind.setdefault(kind, []).append(index)
    return Pool(folder.name, read_json(folder / ABOUT), {**by_kind})
