"""The files that a lock of probes' data covers: its digests in any order of a layout, and memory an image."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import made_probes
import pytest

from mllm_eval.catalog.probe import ProbeData, Protocol, load_protocol
from mllm_eval.errors import UserError
from mllm_eval.probes.layouts import read_examples
from mllm_eval.probes.locking import ProbeLock, UsedFiles, lock_data, lock_path, locked_place
from mllm_eval.storage import read_json, sha256_file, write_json


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "data"))


def brought(name: str, **facts: object) -> Protocol:
    """A probe whose data are brought in a folder, of any number of images."""
    data = load_protocol(name).data["folders"].model_dump()
    known = {**data, "train_rows": None, "test_rows": None, "classes": None, **facts}
    return load_protocol(name).model_copy(update={"data": {"folders": ProbeData(**known)}})


def imagenet_of_awkward_names(folder: Path) -> Path:
    made_probes.imagenet(folder, train=3, val=2)
    for split in ("train", "val"):
        # `n01` comes before `n01-b`, but `n01-b/x` before `n01/x`.
        (folder / split / "n02").rename(folder / split / "n01-b")
    return folder


def nyu_of_any_order(folder: Path) -> Path:
    made_probes.nyu(folder)
    lines = (folder / "nyu_train.txt").read_text().splitlines(keepends=True)
    (folder / "nyu_train.txt").write_text("".join([*lines[::-1], "\n", lines[0]]))
    return folder


@pytest.mark.parametrize(
    ("name", "write", "facts"),
    [
        ("in1k_knn", imagenet_of_awkward_names, {}),
        ("in1k_knn", made_probes.imagenet_parquet,
         {"layout": "imagenet_parquet", "train": "data/train", "test": "data/validation"}),
        ("ade20k_linear", made_probes.ade20k, {}),
        ("nyu_linear1", nyu_of_any_order, {}),
    ],
    ids=["imagenet", "imagenet_parquet", "ade20k", "nyu"],
)  # fmt: skip
def test_a_lock_is_of_the_sorted_names_whatever_the_order_of_the_layout(
    name: str, write: Callable[[Path], Path], facts: dict[str, object], tmp_path: Path
) -> None:
    write(tmp_path / "set")
    place = tmp_path / "set"
    small = brought(name, **facts)
    lock = lock_data(small, "folders", place)
    used = {path for one in read_examples(small.pin("folders"), place) for each in one
            for path in (each.picture.path, each.map_path) if path}  # fmt: skip
    names = sorted(Path(path).relative_to(place).as_posix() for path in used)
    assert list(UsedFiles(read_examples(small.pin("folders"), place), place)) == names
    sizes = [(place / name).stat().st_size for name in names]
    lines = "".join(f"{name} {size}\n" for name, size in zip(names, sizes, strict=True))
    contents = "".join(f"{name} {sha256_file(place / name)}\n" for name in names)
    assert lock.listing == hashlib.sha256(lines.encode()).hexdigest()
    assert lock.content == hashlib.sha256(contents.encode()).hexdigest()
    assert (lock.files, lock.size) == (len(names), sum(sizes)) and locked_place(small, "folders") == place


def many(kind: str, folder: Path, count: int) -> Path:
    """`count` empty images in a layout, a hundred of them in a folder."""
    listed: dict[str, list[str]] = {"train": [], "test": []}
    for at in range(count):
        split, own = ("train", "test")[at % 10 == 0], f"{at // 100:04}"
        paths = {
            "imagenet": [f"{split}/n{own}/{at:06}.png"],
            "nyu": [f"{split}/n{own}/rgb_{at:06}.png", f"{split}/n{own}/depth_{at:06}.png"],
        }[kind]
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).touch()
        listed[split].append(" ".join(f"{path.partition('/')[2]}" for path in paths) + " 518.9\n")
    if kind == "nyu":
        for split, lines in listed.items():
            (folder / f"{split}.txt").write_text("".join(lines))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [("imagenet", "in1k_knn"), ("nyu", "nyu_linear1")])
def test_memory_hardly_grows_with_the_number_of_images(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A shelf collects this many bytes before it writes them, which is not what is measured.
    monkeypatch.setattr("mllm_eval.shelf.PIECE", 2**12)
    facts: dict[str, object] = {"train": "train", "test": "test"}
    if kind == "nyu":
        facts = {"train": "train.txt", "test": "test.txt", "roots": ["train"], "test_roots": ["test"]}
    small = brought(name, **facts)
    peaks = []
    for count in (200, 1700):
        place = many(kind, tmp_path / f"{kind}{count}", count)
        lock_data(small, "folders", place)
        # The smaller of two, because Python's table of interned words may be enlarged during one of them.
        peaks.append(min(peak(small, place, count) for _ in range(2)))
        lock_path(small.pin("folders")).unlink()
    # A name alone takes 100 bytes and more. The places in the shelf take 8, twice while two shelves are open.
    assert (peaks[1] - peaks[0]) / 1500 < 60, peaks


def peak(protocol: Protocol, place: Path, count: int) -> int:
    tracemalloc.start()
    try:
        train, test = read_examples(protocol.pin("folders"), place)
        assert locked_place(protocol, "folders") == place and len(train) + len(test) == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    made_probes.nyu(tmp_path / "nyu")
    (tmp_path / "nyu/nyu_test.txt").write_bytes(b"a.png \xff.png 5\n")
    with pytest.raises(UserError, match=r"nyu_test.txt: not a text in UTF-8"):
        read_examples(brought("nyu_linear1").pin("folders"), tmp_path / "nyu")


def test_a_damaged_lock_of_another_listing_is_refused(tmp_path: Path) -> None:
    made_probes.nyu(tmp_path / "nyu")
    small = brought("nyu_linear1")
    lock_data(small, "folders", tmp_path / "nyu")
    path = lock_path(small.pin("folders"))
    write_json(path, {**read_json(path), "listing": "0" * 64})
    assert ProbeLock(**read_json(path)).listing == "0" * 64
    with pytest.raises(UserError, match="files are missing, added or of another size"):
        locked_place(small, "folders")
