"""Readers of data-set layouts: ImageNet as folders or as the hub's parquet, ADE20K, and NYUv2 as BTS arranges it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mllm_eval.catalog.probe import ProbeData
from mllm_eval.data.images import CellPicture, FilePicture
from mllm_eval.data.parquet import open_parquet, rows_in
from mllm_eval.errors import UserError, near
from mllm_eval.probes.examples import Example, Examples
from mllm_eval.shelf import Shelf
from mllm_eval.storage import within

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def read_examples(data: ProbeData, folder: Path) -> tuple[Examples, Examples]:
    """The training and the test examples of a data set in `folder`, in the order of their names.

    Raises UserError, which names the file or folder, if something is missing or malformed, or if the number of images
    or classes differs from the yaml.
    """
    train, test = LAYOUTS[data.layout](data, folder)
    for split, rows, examples in ((data.train, data.train_rows, train), (data.test, data.test_rows, test)):
        if not len(examples):
            raise UserError(f"{folder / split}: no images here; the data set is not whole")
        if rows is not None and len(examples) != rows:
            raise UserError(f"{folder / split}: {len(examples):,} images, the yaml says {rows:,}: files are missing or "
                            "too many, or it is another release; correct `train_rows` or `test_rows`")  # fmt: skip
    if data.classes is not None and train.classes and len(train.classes) != data.classes:
        raise UserError(f"{folder / data.train}: {len(train.classes):,} classes, the yaml says {data.classes:,}")
    return train, test


def _pictures(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    for name in sorted(os.listdir(folder)):
        if name.lower().endswith(ENDINGS):
            yield folder / name


def _file(path: Path) -> FilePicture:
    # The key stays empty: to compute it means to read every image, and not every caller needs it.
    return FilePicture("", str(path), str(path))


def imagenet(data: ProbeData, folder: Path) -> tuple[Examples, Examples]:
    """Reads `train/<class>/*` and `val/<class>/*`; classes are numbered in the order of their names."""
    top = folder / data.train
    if not top.is_dir():
        raise UserError(f"{top}: no such folder")
    classes = sorted(one.name for one in os.scandir(top) if one.is_dir())
    if not classes:
        raise UserError(f"{top}: no folders of classes in it; ImageNet's layout is {data.train}/<class>/<image>")
    both = []
    for split in (data.train, data.test):
        shelf: Shelf[Example] = Shelf()
        here = folder / split
        own = sorted(one.name for one in os.scandir(here) if one.is_dir()) if here.is_dir() else []
        if strange := [name for name in own if name not in set(classes)]:
            raise UserError(f"{here / strange[0]}: a class that {data.train} does not have."
                            f"{near(strange[0], classes)}")  # fmt: skip
        if not own and any(True for _ in _pictures(here)):
            raise UserError(f"{here}: images without folders of classes; sort them into {split}/<class>/<image>")
        for label, name in enumerate(classes):
            for path in _pictures(here / name) if name in set(own) else ():
                shelf.append(Example(f"{split}/{name}/{path.name}", _file(path), label))
        both.append(Examples(shelf, classes))
    return both[0], both[1]


def imagenet_parquet(data: ProbeData, folder: Path) -> tuple[Examples, Examples]:
    """Reads `<split>-*.parquet` with columns `image` and `label`, as the hub has ImageNet; labels count from 0."""
    both = []
    for split in (data.train, data.test):
        files = sorted(folder.glob(f"{split}-*.parquet"))
        if not files:
            raise UserError(f"{folder / split}-*.parquet: no such files")
        shelf: Shelf[Example] = Shelf()
        most = -1
        for path in files:
            for example in _parquet(path, split):
                most = max(most, example.label)
                shelf.append(example)
        count = data.classes if data.classes is not None else most + 1
        if most >= count:
            raise UserError(f"{folder / split}: label {most}, the yaml says {count:,} classes")
        both.append(Examples(shelf, [str(number) for number in range(count)]))
    return both[0], both[1]


def _parquet(path: Path, split: str) -> Iterator[Example]:
    file = open_parquet(path)
    missing = [name for name in ("image", "label") if name not in file.schema_arrow.names]
    if missing:
        raise UserError(f"{path}: no column {missing[0]!r} (but {', '.join(file.schema_arrow.names)})")
    number = 0
    for group in range(file.num_row_groups):
        for row, label in enumerate(one["label"] for one in rows_in(path, file, [group], ["label"])):
            if not isinstance(label, int) or label < 0:
                raise UserError(f"{path} row {number}: label {label!r} is no class; a test split without labels can't "
                                "be used")  # fmt: skip
            picture = CellPicture("", str(path), group, "image", row, 0, number)
            yield Example(f"{split}/{path.name}/{number}", picture, label)
            number += 1


def ade20k(data: ProbeData, folder: Path) -> tuple[Examples, Examples]:
    """Reads `images/<split>/x.jpg` and `annotations/<split>/x.png`, from the folder or its ADEChallengeData2016/."""
    inside = folder / "ADEChallengeData2016"
    top = inside if inside.is_dir() else folder
    both = []
    for split in (data.train, data.test):
        shelf: Shelf[Example] = Shelf()
        for path in _pictures(top / "images" / split):
            mask = top / "annotations" / split / f"{path.stem}.png"
            if not mask.is_file():
                raise UserError(f"{mask}: no such file, the mask of {path}")
            shelf.append(Example(f"{split}/{path.stem}", _file(path), map_path=str(mask)))
        both.append(Examples(shelf))
    return both[0], both[1]


def nyu(data: ProbeData, folder: Path) -> tuple[Examples, Examples]:
    """Reads lists with lines `<image> <depth> <focal length>`, whose paths are relative to one of `roots`.

    The paths of the test split are relative to one of `test_roots`, if these are given. Raises UserError if several
    roots have different files of a name, or if both splits contain the same image.
    """
    train = _listed(folder, data.train, data.roots)
    test = _listed(folder, data.test, data.roots if data.test_roots is None else data.test_roots)
    for one, same in _shared(train, test):
        raise UserError(f"{folder / one.id}: it is the training image {same.id}, too ({one.picture.path}); what is "
                        "trained on tests nothing: correct the lists, or `test_roots`")  # fmt: skip
    return Examples(train), Examples(test)


def _shared(train: Sequence[Example], test: Sequence[Example]) -> Iterator[tuple[Example, Example]]:
    """The examples of both splits with the same picture. Memory holds 8 bytes per example, hashes of the paths."""
    learnt = np.fromiter((hash(one.picture.path) for one in train), np.int64, len(train))
    learnt.sort()
    for one in test:
        at = int(np.searchsorted(learnt, hash(one.picture.path)))
        if at < len(learnt) and learnt[at] == hash(one.picture.path):
            yield from ((one, same) for same in train if same.picture.path == one.picture.path)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number and the words of each line that is not empty. Raises UserError if the file can't be read."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if words := line.split():
                    yield number, words
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); it lists the images of the split") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text in UTF-8; it lists the images of the split") from None


def _listed(folder: Path, listing: str, roots: Sequence[str]) -> Shelf[Example]:
    path, shelf = folder / listing, Shelf[Example]()
    for number, words in _lines(path):
        if len(words) < 2:
            raise UserError(f"{path}:{number}: expected `<image> <depth> <focal length>`, found {words[0]!r}")
        image, depth = (word.lstrip("/") for word in words[:2])
        try:
            within(folder, image), within(folder, depth)
        except ValueError as problem:
            raise UserError(f"{path}:{number}: {problem}") from None
        having = [folder / one for one in roots if (folder / one / image).is_file()]
        if not having:
            places = ", ".join(str(folder / one) for one in roots)
            raise UserError(f"{path}:{number}: no file {image} under {places}")
        root = having[0]
        if strange := [one for one in having[1:] if not (one / image).samefile(root / image)]:
            raise UserError(f"{path}:{number}: {image} is under {root} and under {strange[0]}; leave one of them among "
                            "the `roots` of this split")  # fmt: skip
        if not (root / depth).is_file():
            raise UserError(f"{path}:{number}: no file {root / depth}, the depth of {image}")
        shelf.append(Example(f"{listing}/{image}", _file(root / image), map_path=str(root / depth)))
    return shelf


LAYOUTS: dict[str, Callable[[ProbeData, Path], tuple[Examples, Examples]]] = {
    "imagenet": imagenet,
    "imagenet_parquet": imagenet_parquet,
    "ade20k": ade20k,
    "nyu": nyu,
}
