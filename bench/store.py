"""Compare the feature store with its predecessor and with plain files: speed, opening, memory, crashes.

    python bench/store.py [--rows 220] [--entries 100000] [--crashes 5] [--rounds 3] [--folder DIR] [--only store]

Ways: `store` reads rows as views of the mapped file, like the engine; `batch` copies the same rows into one tensor,
like training; `before` and `before-batch` do so with the code of commit b4ec615 from git; `safetensors` has one file
per write and one tensor per image, read by `safe_open`; `files` has one file per image. Each measurement runs in its
own process; the ways alternate, and medians are printed. Rows are written in blocks of 32 MiB; a write ends when the
data are on the disk. Rows are read in random order, 32 at a time, and every byte is summed, in all ways alike. `first`
is the first read of a process, in which the store compares checksums; `again` is the second. If other programs share
the machine, CPU seconds are more reliable than wall seconds.

A crash kills two processes that write to one store. `lost` counts rows that were reported as written and are missing,
`wrong` rows whose content differs from what was written, and `closed` files that safetensors cannot open.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import memory, printed_by, report

from mllm_eval.features.store import FeatureStore
from mllm_eval.storage import PACKAGE, write_atomic

BEFORE = "b4ec615"
# Tokens, width and dtype of a ViT-L at 336 pixels and of a ViT-S at 224.
SHAPES = {"577x1024 float16": (577, 1024, "float16"), "257x384 float32": (257, 384, "float32")}
WRITE, BATCH = 32 * 2**20, 32
WAYS = ("store", "batch", "before", "before-batch", "safetensors", "files")


def row_bytes(shape: tuple[int, int, str]) -> int:
    return shape[0] * shape[1] * getattr(torch, shape[2]).itemsize


class Own:
    """The feature store of the code that this process imports; the predecessor returned rows as one tensor."""

    def __init__(self, folder: Path, shape: tuple[int, int, str], batch: bool = False) -> None:
        os.environ["MLLM_EVAL_FEATURES_BYTES"] = "1e15"
        tokens, width, dtype = self.shape = shape
        self.store = FeatureStore(folder / "store", (1, tokens - 1), width, dtype)
        self.batch = batch

    def put(self, names: Sequence[str], rows: np.ndarray) -> None:
        kind = getattr(torch, self.shape[2])
        self.store.put_rows(names, torch.from_numpy(rows).view(kind).view(len(names), *self.shape[:2]))

    def get(self, names: Sequence[str]) -> Any:
        if self.batch:
            return self.store.get_many(names)
        return self.store.views(names) if hasattr(self.store, "views") else self.store.rows(names)[0]


class SafeTensors:
    """One safetensors file per write, with one tensor per image."""

    def __init__(self, folder: Path, shape: tuple[int, int, str]) -> None:
        from safetensors import safe_open

        self.folder = folder
        self.places: dict[str, Any] = {}
        for path in folder.glob("*.safetensors"):
            file = safe_open(path, "pt")
            self.places |= dict.fromkeys(file.keys(), file)  # `file` is no dict

    def put(self, names: Sequence[str], rows: np.ndarray) -> None:
        from safetensors.numpy import save

        write_atomic(self.folder / f"{names[0]}.safetensors", save(dict(zip(names, rows, strict=True))))

    def get(self, names: Sequence[str]) -> Any:
        return [self.places[name].get_tensor(name) for name in names]


class Files:
    """One file per image."""

    def __init__(self, folder: Path, shape: tuple[int, int, str]) -> None:
        self.folder, self.size = folder, row_bytes(shape)

    def put(self, names: Sequence[str], rows: np.ndarray) -> None:
        for name, row in zip(names, rows, strict=True):
            write_atomic(self.folder / name[:2] / name, row.tobytes())

    def get(self, names: Sequence[str]) -> Any:
        rows = np.empty((len(names), self.size), np.uint8)
        for row, name in zip(rows, names, strict=True):
            with open(self.folder / name[:2] / name, "rb", buffering=0) as file:
                file.readinto(row.data)
        return torch.from_numpy(rows)


def opened(way: str, folder: Path, shape: tuple[int, int, str]) -> Any:
    if way in ("safetensors", "files"):
        return {"safetensors": SafeTensors, "files": Files}[way](folder, shape)
    return Own(folder, shape, way.endswith("batch"))


def named(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def content(names: Sequence[str], size: int) -> np.ndarray:
    """Rows uint8 [names, size] that depend on the names alone. Read as floats they are finite in every dtype."""
    noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    rows = noise[None] ^ np.array([int(name[:2], 16) for name in names], np.uint8)[:, None]
    # This clears the top bit of every exponent.
    rows[:, 1::2] &= 0x3F
    return rows


def speed(way: str, folder: Path, kind: str, rows: int) -> dict[str, float]:
    """MB/s and CPU seconds per GB of writing, of the first read, and of the second; and MiB of mapped files."""
    shape = SHAPES[kind]
    size = row_bytes(shape)
    count = rows * row_bytes(SHAPES["577x1024 float16"]) // size
    names, gigabytes = named(count), count * size / 1e9
    figures: dict[str, float] = {}

    def noted(title: str, wall: float, busy: float) -> None:
        figures.update({f"{title} MB/s": gigabytes * 1000 / wall, f"{title} CPU s/GB": busy / gigabytes})

    kept, wall, busy = opened(way, folder, shape), 0.0, 0.0
    for start in range(0, count, step := WRITE // size):
        part = names[start : start + step]
        data = content(part, size)
        wall, busy = wall - time.perf_counter(), busy - time.process_time()
        kept.put(part, data)
        wall, busy = wall + time.perf_counter(), busy + time.process_time()
    noted("write", wall, busy)
    del kept
    kept = opened(way, folder, shape)
    order, before = random.Random(1).sample(names, count), memory("RssFile")
    for title in ("first", "again"):
        wall, busy = time.perf_counter(), time.process_time()
        for start in range(0, count, BATCH):
            for row in kept.get(order[start : start + BATCH]):
                row.view(torch.int64).sum()
        noted(title, time.perf_counter() - wall, time.process_time() - busy)
    return figures | {"mapped MiB": memory("RssFile") - before}


def opening(way: str, folder: Path, kind: str, entries: int) -> dict[str, float]:
    """Seconds and memory of opening a store of `entries` tiny rows, in as many shards as rows of real size need."""
    names = named(entries)
    tiny = (2, 1, "float32")
    for name, module in list(sys.modules.items()):
        if name.startswith("mllm_eval.features") and hasattr(module, "SHARD_BYTES"):
            step = module.SHARD_BYTES // row_bytes(SHAPES[kind]) + 1
            module.SHARD_BYTES = step * row_bytes(tiny)
    kept = opened(way, folder, tiny)
    for start in range(0, entries, step):
        part = names[start : start + step]
        kept.put(part, content(part, row_bytes(tiny)))
    del kept
    # A warm-up, which loads code and brings the files into the page cache.
    opened(way, folder, tiny)
    heap, wall, busy = memory("RssAnon"), time.perf_counter(), time.process_time()
    kept = opened(way, folder, tiny)
    figures = {"open s": time.perf_counter() - wall, "open CPU s": time.process_time() - busy}
    figures["index MiB"] = memory("RssAnon") - heap
    busy = time.process_time()
    assert not kept.store.missing(names)
    return figures | {"look up all CPU s": time.process_time() - busy, "files": sum(1 for _ in folder.rglob("*.*"))}


def endless(folder: Path, first: int) -> None:
    """Write every other block of 8 images, and print its number after each, until killed."""
    shape = next(iter(SHAPES.values()))
    kept = Own(folder, shape)
    for start in range(first, 10**6, 16):
        names = named(start + 8)[start:]
        kept.put(names, content(names, row_bytes(shape)))
        print(start, flush=True)


def crashing(way: str, folder: Path, kind: str, crashes: int) -> dict[str, float]:
    """Kill two processes that write to one store, up to 0.1 s apart, and count what is lost or wrong."""
    from safetensors import safe_open

    faults = dict.fromkeys(("lost", "wrong", "closed"), 0)
    for number in range(crashes):
        at, chance = folder / str(number), random.Random(number)
        at.mkdir()
        command = [sys.executable, __file__, "--child", "endless", str(at)]
        writers = [subprocess.Popen([*command, first], stdout=subprocess.PIPE, text=True) for first in ("0", "8")]
        said: list[int] = []
        for one in writers:
            assert one.stdout is not None
            said += [int(one.stdout.readline()) for _ in range(3)]
        for one in writers:
            time.sleep(chance.random() * 0.1)
            one.send_signal(signal.SIGKILL)
            assert one.stdout is not None
            said += [int(line) for line in one.stdout.readlines()]
            one.wait()
        kept, size = Own(at, SHAPES[kind]), row_bytes(SHAPES[kind])
        written = {name for start in said for name in named(start + 8)[start:]}
        for name in named(max(said) + 32):
            (row,) = kept.store.views([name])
            faults["lost"] += row is None and name in written
            if row is not None:
                faults["wrong"] += not np.array_equal(row.view(torch.uint8).flatten().numpy(), content([name], size)[0])
        for path in at.rglob("*.safetensors"):
            try:
                safe_open(path, "pt")
            except Exception:
                faults["closed"] += 1
    return {"kills": 2 * crashes, **faults}


@contextmanager
def code_before() -> Iterator[str | None]:
    """A temporary folder with the package at commit `BEFORE`; None if git does not have it."""
    with tempfile.TemporaryDirectory(prefix="store-before-") as folder:
        archive = subprocess.run(["git", "archive", BEFORE, "mllm_eval"], cwd=PACKAGE.parent, capture_output=True)
        if archive.returncode == 0:
            subprocess.run(["tar", "x", "-C", folder], input=archive.stdout, check=True)
        yield folder if archive.returncode == 0 else None


def measured(work: str, way: str, kind: str, count: int, at: Path | None, before: str | None) -> dict[str, float]:
    """Run one measurement in its own process and in a temporary folder, and return its result."""
    with tempfile.TemporaryDirectory(prefix="store-", dir=at) as folder:
        paths = [str(before) if way.startswith("before") else str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
        command = [sys.executable, __file__, "--child", work, way, folder, kind, str(count)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        return printed_by(command, environment)


def main() -> None:
    if sys.argv[1:3] == ["--child", "endless"]:
        return endless(Path(sys.argv[3]), int(sys.argv[4]))
    if sys.argv[1:2] == ["--child"]:
        work = {"speed": speed, "opening": opening, "crashing": crashing}[sys.argv[2]]
        return print(json.dumps(work(sys.argv[3], Path(sys.argv[4]), sys.argv[5], int(sys.argv[6]))))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=220, help="of 577 x 1024; as many bytes of the other shape")
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--crashes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; default: the temporary folder")
    parser.add_argument("--only", default=",".join(WAYS))
    asked = parser.parse_args()
    ways = asked.only.split(",")
    first = next(iter(SHAPES))
    jobs = [("speed", kind, ways, asked.rows, asked.rounds) for kind in SHAPES]
    jobs += [("opening", first, [way for way in ways if way in ("store", "before")], asked.entries, asked.rounds)]
    jobs += [("crashing", first, [way for way in ways if way == "store"], asked.crashes, 1)]
    with code_before() as before:
        for work, kind, own, count, rounds in jobs:
            own = [way for way in own if before or not way.startswith("before")]
            taken: dict[str, list[dict[str, float]]] = {way: [] for way in own}
            for _ in range(rounds):
                for way in own:
                    taken[way].append(measured(work, way, kind, count, asked.folder, before))
            rows = []
            for way, several in taken.items():
                rows.append({"way": way, **{key: statistics.median(one[key] for one in several) for key in several[0]}})
                if work == "speed" and before:
                    old = taken["before-batch" if way == "batch" else "before"] if "before" in taken else several
                    for title in ("first", "again"):
                        was = statistics.median(one[f"{title} CPU s/GB"] for one in old)
                        rows[-1][f"{title} times before"] = was / rows[-1][f"{title} CPU s/GB"]
            if rows:
                report(f"store-{work}-{kind.split()[0]}", {"kind": kind, "count": count, "rounds": rounds}, rows)


if __name__ == "__main__":
    main()
