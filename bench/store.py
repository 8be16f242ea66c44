"""The feature store beside other ways to keep features on disk: speed, opening, memory, crashes.

    python bench/store.py [--rows 300] [--entries 100000] [--crashes 5] [--folder DIR] [--only own,lmdb]

Ways: `own`, the store of mllm_eval; `mapped`, the same files read through memory maps; `npy`, a .npy and a .json a
shard; `safetensors`, a file a shard, a tensor an image; `lmdb` (if it is installed: pip install lmdb), one database;
`files`, a file an image. Each way is a process of its own. Rows come in writes of 32 MiB, and a write ends when
the disk has it. `first` reads every row in random order, batches of 32, and checks its CRC-32; `again` reads without
checking, as the store does in the same process. A crash is a kill in the middle of writing: `lost` counts rows that
were said to be written and are not there, `wrong` those that are there and are not what was written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import report

from mllm_eval.features.index import Index
from mllm_eval.features.room import SHARD_BYTES
from mllm_eval.features.shards import HEADER, MAGIC, entries_of, read_entries, rows_file
from mllm_eval.features.store import FeatureStore
from mllm_eval.storage import write_atomic, write_json

# Patches and a summary: a ViT-L at 336 pixels in float16, a ViT-S at 224 in float32.
SHAPES = {
    "577x1024 float16": (577 * 1024 * 2, 577, 1024, "float16"),
    "257x384 float32": (257 * 384 * 4, 257, 384, "float32"),
}
WRITE = 32 * 2**20
BATCH = 32


class Own:
    def __init__(self, folder: Path, shape: str) -> None:
        os.environ["MLLM_EVAL_FEATURES_BYTES"] = "1e15"
        size, tokens, width, dtype = SHAPES[shape]
        self.size, self.width, self.kind = size, width, getattr(torch, dtype)
        self.store = FeatureStore(folder / "store", (1, tokens - 1), width, dtype)

    def put(self, names: Sequence[str], rows: np.ndarray) -> None:
        self.store.put_rows(names, torch.from_numpy(rows).view(self.kind).view(len(names), -1, self.width))

    def get(self, names: Sequence[str], check: bool) -> np.ndarray:
        return self.store.rows(names)[0].view(torch.uint8).view(len(names), -1).numpy()

    def missing(self, names: Sequence[str]) -> int:
        return len(self.store.missing(names))

    def make_many(self, names: Sequence[str]) -> None:
        step = SHARD_BYTES // self.size + 1
        self.store.folder.mkdir(parents=True)
        for start in range(0, len(names), step):
            part = names[start : start + step]
            index = self.store.folder / f"{start:010x}-0.index"
            index.write_bytes(HEADER.pack(MAGIC, self.size) + entries_of(part, [0] * len(part)))
            sparse(rows_file(index), b"", len(part) * self.size)


class Mapped(Own):
    """The files of `Own` through memory maps."""

    def __init__(self, folder: Path, shape: str) -> None:
        super().__init__(folder, shape)
        self.index, self.maps = Index(), []
        for number, path in enumerate(sorted(self.store.folder.glob("*.index"))):
            entries, good = read_entries(path, self.size)
            self.index.add([(number, np.flatnonzero(good), entries[good])])
            self.maps.append(np.memmap(rows_file(path), np.uint8, "r").reshape(-1, self.size))

    def get(self, names: Sequence[str], check: bool) -> np.ndarray:
        found = np.empty((len(names), self.size), np.uint8)
        for at, number in enumerate(self.index.find(names).tolist()):
            shard, row, checksum, _ = self.index.place(number)
            data = self.maps[shard][row]
            assert not check or zlib.crc32(data) == checksum
            found[at] = data
        return found

    def missing(self, names: Sequence[str]) -> int:
        return int((self.index.find(names) < 0).sum())


class Npy:
    """A .npy and a .json a shard."""

    def __init__(self, folder: Path, shape: str) -> None:
        self.folder, self.size = folder, SHAPES[shape][0]
        self.places: dict[str, tuple[int, int, int]] = {}
        self.maps: list[np.ndarray] = []
        for path in sorted(folder.glob("*.json")):
            self.read(path)

    def read(self, path: Path) -> None:
        entry = json.loads(path.read_bytes())
        self.maps.append(np.load(path.with_suffix(".npy"), mmap_mode="r"))
        for row, (name, checksum) in enumerate(zip(entry["images"], entry["checksums"], strict=True)):
            self.places[name] = len(self.maps) - 1, row, checksum

    def put(self, names: Sequence[str], rows: np.ndarray) -> None:
        stem = self.folder / f"{len(self.maps):06d}"
        with open(stem.with_suffix(".tmp"), "wb") as file:
            np.save(file, rows)
            os.fsync(file.fileno())
        stem.with_suffix(".tmp").rename(stem.with_suffix(".npy"))
        write_json(stem.with_suffix(".json"), {"images": names, "checksums": [zlib.crc32(row) for row in rows]})
        self.read(stem.with_suffix(".json"))

    def get(self, names: Sequence[str], check: bool) -> np.ndarray:
        found = np.empty((len(names), self.size), np.uint8)
        for at, name in enumerate(names):
            shard, row, checksum = self.places[name]
            assert not check or zlib.crc32(self.maps[shard][row]) == checksum
            found[at] = self.maps[shard][row]
        return found

    def missing(self, names: Sequence[str]) -> int:
        return sum(name not in self.places for name in names)

    def make_many(self, names: Sequence[str]) -> None:
        step = WRITE // self.size
        for start in range(0, len(names), step):
            part = list(names[start : start + step])
            stem = self.folder / f"{start:06d}"
            np.lib.format.open_memmap(stem.with_suffix(".npy"), "w+", np.uint8, (len(part), self.size))
            stem.with_suffix(".json").write_text(json.dumps({"images": part, "checksums": [1234567890] * len(part)}))


class SafeTensors:
    """A file a shard, a tensor an image, its checksum in the file's metadata."""

    def __init__(self, folder: Path, shape: str) -> None:
        self.folder, self.size = folder, SHAPES[shape][0]
        self.files: list[Any] = []
        self.places: dict[str, tuple[int, int]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self.read(path)

    def read(self, path: Path) -> None:
        from safetensors import safe_open

        file = safe_open(path, "np")
        self.files.append(file)
        for name, checksum in file.metadata().items():
            self.places[name] = len(self.files) - 1, int(checksum)

    def put(self, names: Sequence[str], rows: np.ndarray) -> None:
        from safetensors.numpy import save

        checks = {name: str(zlib.crc32(row)) for name, row in zip(names, rows, strict=True)}
        path = self.folder / f"{len(self.files):06d}.safetensors"
        write_atomic(path, save(dict(zip(names, rows, strict=True)), metadata=checks))
        self.read(path)

    def get(self, names: Sequence[str], check: bool) -> np.ndarray:
        found = np.empty((len(names), self.size), np.uint8)
        for at, name in enumerate(names):
            shard, checksum = self.places[name]
            found[at] = self.files[shard].get_tensor(name)
            assert not check or zlib.crc32(found[at]) == checksum
        return found

    missing = Npy.missing

    def make_many(self, names: Sequence[str]) -> None:
        step = WRITE // self.size
        for start in range(0, len(names), step):
            part = names[start : start + step]
            head: dict[str, Any] = {"__metadata__": dict.fromkeys(part, "1234567890")}
            for at, name in enumerate(part):
                head[name] = {
                    "dtype": "U8",
                    "shape": [self.size],
                    "data_offsets": [at * self.size, (at + 1) * self.size],
                }
            text = json.dumps(head).encode()
            begin = struct.pack("<Q", len(text)) + text
            sparse(self.folder / f"{start:06d}.safetensors", begin, len(begin) + len(part) * self.size)


class Lmdb:
    """One database; the row's checksum stands before it."""

    def __init__(self, folder: Path, shape: str) -> None:
        import lmdb

        self.size = SHAPES[shape][0]
        self.base = lmdb.open(str(folder / "base"), map_size=2**40, max_readers=64)

    def put(self, names: Sequence[str], rows: np.ndarray) -> None:
        with self.base.begin(write=True) as writing:
            for name, row in zip(names, rows, strict=True):
                writing.put(bytes.fromhex(name), zlib.crc32(row).to_bytes(4, "little") + row.tobytes())

    def get(self, names: Sequence[str], check: bool) -> np.ndarray:
        found = np.empty((len(names), self.size), np.uint8)
        with self.base.begin(buffers=True) as reading:
            for at, name in enumerate(names):
                data = reading.get(bytes.fromhex(name))
                if data is None:
                    raise KeyError(name)
                found[at] = np.frombuffer(data[4:], np.uint8)
                assert not check or zlib.crc32(found[at]) == int.from_bytes(data[:4], "little")
        return found

    def missing(self, names: Sequence[str]) -> int:
        with self.base.begin(buffers=True) as reading:
            return sum(reading.get(bytes.fromhex(name)) is None for name in names)

    def make_many(self, names: Sequence[str]) -> None:
        # The rows themselves would fill the disk; a tree of entries with large values is about as high.
        with self.base.begin(write=True) as writing:
            for name in names:
                writing.put(bytes.fromhex(name), bytes(2048))


class Files:
    """A file an image, its checksum at the end."""

    def __init__(self, folder: Path, shape: str) -> None:
        self.folder, self.size = folder, SHAPES[shape][0]

    def path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    def put(self, names: Sequence[str], rows: np.ndarray) -> None:
        for name, row in zip(names, rows, strict=True):
            write_atomic(self.path(name), row.tobytes() + zlib.crc32(row).to_bytes(4, "little"))

    def get(self, names: Sequence[str], check: bool) -> np.ndarray:
        found = np.empty((len(names), self.size), np.uint8)
        for at, name in enumerate(names):
            with open(self.path(name), "rb") as file:
                file.readinto(found[at].data)
                assert not check or zlib.crc32(found[at]) == int.from_bytes(file.read(4), "little")
        return found

    def missing(self, names: Sequence[str]) -> int:
        return sum(not os.path.exists(self.path(name)) for name in names)

    def make_many(self, names: Sequence[str]) -> None:
        for name in names:
            self.path(name).parent.mkdir(exist_ok=True)
            self.path(name).touch()


WAYS: dict[str, Callable[[Path, str], Any]] = {
    "own": Own, "mapped": Mapped, "npy": Npy, "safetensors": SafeTensors, "lmdb": Lmdb, "files": Files,
}  # fmt: skip


def sparse(path: Path, begin: bytes, size: int) -> None:
    with open(path, "wb") as file:
        file.write(begin)
        file.truncate(size)


def named(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def content(names: Sequence[str], size: int) -> np.ndarray:
    """Rows that their names decide, and that no checksum or compression finds easy."""
    noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    seeds = np.array([int(name[:2], 16) for name in names], np.uint8)
    rows = noise[None] ^ seeds[:, None]
    # Finite in every dtype: the highest bit of an exponent is never set.
    rows[:, 1::2] &= 0x3F
    return rows


def resident(kind: str) -> float:
    """MiB: `RssAnon`, memory of the process, or `RssFile`, pages of files it has mapped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{kind}:"))


def speed(way: str, shape: str, folder: Path, rows: int) -> dict[str, Any]:
    size = SHAPES[shape][0]
    count = rows * SHAPES["577x1024 float16"][0] // size
    names = named(count)
    kept = WAYS["own" if way == "mapped" else way](folder, shape)
    wall = cpu = 0.0
    step = WRITE // size
    for start in range(0, count, step):
        part = names[start : start + step]
        data = content(part, size)
        wall, cpu = wall - time.perf_counter(), cpu - time.process_time()
        kept.put(part, data)
        wall, cpu = wall + time.perf_counter(), cpu + time.process_time()
    del kept
    kept = WAYS[way](folder, shape)
    order = random.Random(1).sample(names, count)
    found: dict[str, Any] = {"write MB/s": count * size / 1e6 / wall, "write CPU s/GB": cpu / (count * size / 1e9)}
    before = resident("RssFile")
    kept.get(names[:1], True)
    for title, check in (("first", True), ("again", False)):
        start, busy = time.perf_counter(), time.process_time()
        for at in range(0, count, BATCH):
            kept.get(order[at : at + BATCH], check)
        took, used = time.perf_counter() - start, time.process_time() - busy
        found |= {f"{title} MB/s": count * size / 1e6 / took, f"{title} rows/s": count / took,
                  f"{title} CPU s/GB": used / (count * size / 1e9)}  # fmt: skip
    return found | {"mapped MiB": resident("RssFile") - before}


def opening(way: str, shape: str, folder: Path, entries: int) -> dict[str, Any]:
    names = named(entries)
    if way != "mapped":
        WAYS[way](folder, shape).make_many(names)
    else:
        Own(folder, shape).make_many(names)
    WAYS[way](folder, shape)
    heap, wall, cpu = resident("RssAnon"), time.perf_counter(), time.process_time()
    kept = WAYS[way](folder, shape)
    opened, busy = time.perf_counter() - wall, time.process_time() - cpu
    grown, start = resident("RssAnon") - heap, time.perf_counter()
    assert kept.missing(names) == 0
    files = sum(1 for path in folder.rglob("*") if path.is_file())
    return {"open s": opened, "open CPU s": busy, "index MiB": grown, "look up all s": time.perf_counter() - start,
            "files": files}  # fmt: skip


def endless(way: str, shape: str, folder: Path) -> None:
    """Write and say so until killed."""
    size, step = SHAPES[shape][0], 8
    kept = WAYS[way](folder, shape)
    for start in range(0, 10**6, step):
        names = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(start, start + step)]
        kept.put(names, content(names, size))
        print(start + step, flush=True)


def crashing(way: str, shape: str, folder: Path, crashes: int) -> dict[str, Any]:
    lost = wrong = unreadable = 0
    for number in range(crashes):
        at = folder / str(number)
        at.mkdir()
        command = [sys.executable, __file__, "--child", "endless", way, shape, str(at)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(3):
            child.stdout.readline()
        time.sleep(random.Random(number).random() * 0.1)
        child.send_signal(signal.SIGKILL)
        said = 24 + 8 * len(child.stdout.readlines())
        child.wait()
        try:
            kept = WAYS[way](at, shape)
        except Exception:
            unreadable += 1
            continue
        for name in named(said + 16):
            there = kept.missing([name]) == 0
            lost += not there and named(said).count(name)
            wrong += there and not np.array_equal(kept.get([name], True)[0], content([name], kept.size)[0])
        shutil.rmtree(at)
    return {"kills": crashes, "unreadable": unreadable, "lost": lost, "wrong": wrong}


def main() -> None:
    if sys.argv[1:3] == ["--child", "endless"]:
        endless(sys.argv[3], sys.argv[4], Path(sys.argv[5]))
        return
    if sys.argv[1:2] == ["--child"]:
        work = {"speed": speed, "opening": opening, "crashing": crashing}[sys.argv[2]]
        print(json.dumps(work(sys.argv[3], sys.argv[4], Path(sys.argv[5]), int(sys.argv[6]))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300, help="of 577 x 1024; as many bytes of the other shape")
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--crashes", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; default: the temporary folder")
    parser.add_argument("--only", default=",".join(WAYS))
    asked = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for way in asked.only.split(","):
        if way == "lmdb" and find_spec("lmdb") is None:
            print("lmdb: not installed, left out (pip install lmdb)")
            continue
        found: dict[str, Any] = {"way": way}
        jobs = [("speed", shape, asked.rows) for shape in SHAPES]
        jobs += [("opening", next(iter(SHAPES)), asked.entries)]
        jobs += [("crashing", next(iter(SHAPES)), asked.crashes)] if way != "mapped" else []
        for work, shape, count in jobs:
            folder = Path(tempfile.mkdtemp(prefix=f"store-{way}-", dir=asked.folder))
            try:
                command = [sys.executable, __file__, "--child", work, way, shape, str(folder), str(count)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                said = json.loads(done.stdout.splitlines()[-1])
                found[shape if work == "speed" else work] = said
            finally:
                shutil.rmtree(folder)
        lines.append(found)
        print(f"{way}: done", file=sys.stderr)
    settings = {"rows": asked.rows, "entries": asked.entries, "crashes": asked.crashes}
    flat = [
        {"way": line["way"], "what": what, **values} for line in lines for what, values in line.items() if what != "way"
    ]
    write = {
        what: [line for line in flat if line["what"] == what] for what in dict.fromkeys(line["what"] for line in flat)
    }
    for what, rows in write.items():
        report(
            f"store-{what.split()[0]}",
            {**settings, "what": what},
            [{k: v for k, v in r.items() if k != "what"} for r in rows],
        )


if __name__ == "__main__":
    main()
