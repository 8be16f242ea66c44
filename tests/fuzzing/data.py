"""Pictures, tables of questions, training rows, captions and archives."""

from __future__ import annotations

import copy
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hypothesis import strategies as st
from PIL import Image

from fuzzing.mutation import HOSTILE, Input, Strategy, changed_bytes, changed_cells, changed_lines
from fuzzing.running import Changed, Subject
from mllm_eval.catalog import load_benchmark
from mllm_eval.data.conversations import ConversationSet
from mllm_eval.data.samples import Sample
from mllm_eval.data.snapshots import load_samples
from mllm_eval.decoding import MAX_PIXELS, decode, load_map, orientation_tag, peculiar, pixels_key, size_of
from mllm_eval.errors import UserError

NOISE = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    held = io.BytesIO()
    image = Image.fromarray(NOISE)
    if mode == "I;16":
        image = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(NOISE[..., 0].astype(np.float32) / 255)
    elif mode != "RGB":
        image = image.convert(mode)
    image.save(held, kind, **options)
    return held.getvalue()


def pictures() -> list[bytes]:
    turned = Image.Exif()
    turned[0x0112] = 6
    modes = [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"),
             ("TIFF", "RGB"), ("TIFF", "I;16"), ("TIFF", "F"), ("GIF", "P"), ("BMP", "RGB"), ("PPM", "RGB"),
             ("WEBP", "RGBA"), ("ICO", "RGBA")]  # fmt: skip
    return [*(encoded(kind, mode) for kind, mode in modes), encoded("JPEG", exif=turned), encoded("PNG", exif=turned),
            encoded("TIFF", compression="tiff_deflate")]  # fmt: skip


class Picture(Subject):
    """A picture as a benchmark, a training set and a probe read it."""

    def __init__(self, home: Path) -> None:
        self.inputs = st.one_of([changed_bytes(sound) for sound in pictures()])
        self.path = home / "picture"

    def read(self, given: bytes) -> str:
        self.path.write_bytes(given)
        if pixels_key(given) != pixels_key(given) or not isinstance(orientation_tag(given), int | None):
            raise Changed("the key of one image is two")
        image = decode(given, "picture")
        if image.mode != "RGB" or image.width * image.height > MAX_PIXELS or image.size != size_of(given):
            raise Changed(f"{image.mode} {image.size}, {size_of(given)}")
        peculiar(self.path, "picture")
        return "read"


class Map(Subject):
    """A mask of classes."""

    def __init__(self, home: Path) -> None:
        masks = [encoded("PNG", "L"), encoded("PNG", "I;16"), encoded("PNG", "1"), encoded("TIFF", "L")]
        self.inputs = st.one_of([changed_bytes(sound) for sound in masks])
        self.path = home / "mask.png"

    def read(self, given: bytes) -> str:
        self.path.write_bytes(given)
        load_map(self.path)
        return "read"


def said(sample: Sample) -> tuple[Any, ...]:
    return sample.prompt, sample.target, [picture.sha256 for picture in sample.images]


class Table(Subject):
    """A table of questions whose rows have ids; the images of those that can be read are decoded."""

    yaml: ClassVar[dict[str, Any]] = {
        "name": "own", "title": "Own", "category": "general", "chance": 25,
        "columns": {"image": "image", "key": "string", "question": "string", "options": "list<string>",
                    "answer": "string"},
        "reader": "mllm_eval.data.readers:choices", "settings": {"id": "key"}, "generation": {"max_new_tokens": 4},
        "data": {"mine": {"repo": "mine", "split": "test", "path": "rows.parquet"}},
        "rules": {"cambrian": {"version": 1}},
    }  # fmt: skip
    rows: ClassVar[list[dict[str, Any]]] = [
        {"key": f"k{number}", "question": f"Which is {number}?", "options": ["a", "b"], "answer": "AB"[number % 2],
         "image": {"bytes": encoded("PNG" if number % 2 else "JPEG"), "path": None}} for number in range(6)
    ]  # fmt: skip

    def __init__(self, home: Path) -> None:
        folder = home / "benchmarks/own"
        folder.mkdir(parents=True)
        (folder / "benchmark.yaml").write_text(yaml.safe_dump(self.yaml))
        self.benchmark = load_benchmark(str(folder))
        self.file = home / "data/mine" / self.yaml["data"]["mine"]["path"]
        self.file.parent.mkdir(parents=True)
        self.prepare()
        self.sound = {sample.id: said(sample) for sample in load_samples(self.benchmark, "mine")}

    def prepare(self) -> None:
        """Write the sound file, and say how it is changed."""
        self.file.write_bytes(self.written(self.rows))
        whole = changed_bytes(self.written(self.rows)).map(Input)
        self.inputs: Strategy[Any] = st.one_of(whole, whole, self.changed_rows())

    def changed_rows(self) -> Strategy[Input]:
        def put(change: tuple[int, int, int]) -> Input:
            number, column, value = change
            rows = copy.deepcopy(self.rows)
            row = rows[number % len(rows)]
            name = list(row)[column % len(row)]
            row[name] = HOSTILE[value]
            try:
                return Input(self.written(rows), frozenset([number % len(rows)]))
            except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
                # That table can't be: a column of that type alone can.
                return Input(self.written([{**one, name: str(HOSTILE[value])} for one in self.rows], free=True))

        def picture(change: tuple[int, bytes]) -> Input:
            number, data = change
            rows = copy.deepcopy(self.rows)
            rows[number % len(rows)]["image"] = {"bytes": data, "path": None}
            return Input(self.written(rows), frozenset([number % len(rows)]))

        places = st.integers(0, 1000)
        cells = st.tuples(places, places, st.integers(0, len(HOSTILE) - 1)).map(put)
        return cells | st.tuples(places, changed_bytes(encoded("JPEG"))).map(picture)

    @staticmethod
    def written(rows: list[dict[str, Any]], free: bool = False) -> bytes:
        kinds = {"key": pa.string(), "question": pa.string(), "options": pa.list_(pa.string()), "answer": pa.string(),
                 "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())])}  # fmt: skip
        held = io.BytesIO()
        clean = [{key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
                  for key, value in row.items()} for row in rows]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(clean, None if free else pa.schema(kinds)), held, row_group_size=2)
        return held.getvalue()

    def read(self, given: Input) -> str:
        self.file.write_bytes(given.data)
        samples, broken = load_samples(self.benchmark, "mine"), 0
        for sample in samples:
            number = int(sample.id[1:]) if sample.id in self.sound else -1
            same = number < 0 or said(sample) == self.sound[sample.id]
            if given.touched is not None and not same and number not in given.touched:
                raise Changed(f"sample {sample.id}")
            for one in sample.images:
                try:
                    one.load()
                except UserError:
                    broken += 1
        if given.touched is not None and len(samples) < len(self.sound) - len(given.touched):
            raise Changed(f"{len(samples)} samples")
        return "counted" if broken else "read"


class Csv(Table):
    """The same in a csv whose images are files."""

    yaml: ClassVar[dict[str, Any]] = {
        **Table.yaml, "columns": {name: kind for name, kind in Table.yaml["columns"].items() if name != "image"},
        "data": {"mine": {"repo": "mine", "split": "test", "path": "rows.csv", "image_files": "{key}.png"}},
    }  # fmt: skip

    def prepare(self) -> None:
        head = ["key", "question", "options", "answer"]
        rows = [[row["key"], row["question"], json.dumps(row["options"]), row["answer"]] for row in self.rows]
        for row in self.rows:
            (self.file.parent / f"{row['key']}.png").write_bytes(row["image"]["bytes"])
        lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [head, *rows]]
        self.file.write_text("\n".join(lines) + "\n")
        self.inputs = changed_cells(head, rows, ",")


class Training(Subject):
    """Rows of a training set: a broken one is counted, the others stay what they are."""

    rows: ClassVar[list[Any]] = [
        {"id": str(number), "image": f"{number}.png", "conversations": [
            {"from": "human", "value": f"<image>\nWhich is {number}?"}, {"from": "gpt", "value": "red"},
            {"from": "human", "value": "Sure?"}, {"from": "gpt", "value": f"{number}"}]} for number in range(4)
    ] + [{"id": "4", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
         {"messages": [{"role": "user", "content": [{"type": "image", "path": "5.png"}, {"type": "text", "text": "A"}]},
                       {"role": "assistant", "content": "B", "weight": 1}]}]  # fmt: skip

    def __init__(self, home: Path) -> None:
        self.path, self.images = home / "rows.jsonl", home / "images"
        self.images.mkdir()
        array = json.dumps(self.rows, indent=1).encode()
        self.inputs = st.one_of(changed_lines(self.rows), changed_lines(self.rows), changed_bytes(array).map(Input))
        self.path.write_bytes(b"\n".join(json.dumps(row).encode() for row in self.rows))
        self.sound = list(ConversationSet(self.path, self.images))

    def read(self, given: Input) -> str:
        self.path.write_bytes(given.data)
        rows = ConversationSet(self.path, self.images)
        found = list(rows.read_from(0))
        for row in found:
            if row is not None and not isinstance(row, UserError):
                for name in row.images:
                    if not (self.images / name).resolve().is_relative_to(self.images.resolve()):
                        raise Changed(f"an image outside of its root: {name[:40]!a}")
        if given.touched is not None:
            left = [row for number, row in enumerate(self.sound) if number not in given.touched]
            if any(row not in found for row in left):
                raise Changed("a row that was not touched")
        return "counted" if any(isinstance(row, UserError) for row in found) else "read"


class Captions(Subject):
    """Pictures with captions."""

    def __init__(self, home: Path) -> None:
        from mllm_eval.alignment import pairs
        from mllm_eval.alignment.protocol import Alignment

        self.pairs = pairs
        table = pa.Table.from_pylist([
            {"image": {"bytes": encoded("JPEG"), "path": None}, "text": ["a", "b"]} for _ in range(4)
        ])  # fmt: skip
        held = io.BytesIO()
        pq.write_table(table, held, row_group_size=2)
        self.inputs = changed_bytes(held.getvalue())
        self.file = home / "captions/x.parquet"
        self.file.parent.mkdir()
        self.protocol = Alignment(name="a", version=1, data={"mine": {"path": str(self.file.parent)}})

    def read(self, given: bytes) -> str:
        self.file.write_bytes(given)
        found = self.pairs.load_pairs(self.protocol, "mine")
        broken = len(found.failed)
        for pair in found.pairs:
            try:
                pair.load()
            except UserError:
                broken += 1
        return "counted" if broken else "read"


class Archive(Subject):
    """A probe's archive: what is unpacked lies in its folder."""

    def __init__(self, home: Path) -> None:
        from mllm_eval.probes import locking

        held = io.BytesIO()
        with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as packed:
            for name in ("a/1.png", "a/2.png", "b.txt"):
                packed.writestr(name, encoded("PNG"))
        self.unpacked: Callable[[Path], Path] = locking.unpack
        self.inputs = changed_bytes(held.getvalue())
        self.folder = home / "in/side"

    def read(self, given: bytes) -> str:
        shutil.rmtree(self.folder.parent, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.folder / "x.zip").write_bytes(given)
        try:
            self.unpacked(self.folder / "x.zip")
        finally:
            top = [path for path in self.folder.parent.rglob("*") if not path.is_relative_to(self.folder / "x")]
            if {path.name for path in top} - {"side", "x.zip"}:
                raise Changed("a member outside of the folder, or what was left of one")
        return "read"


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    "image": Picture, "map": Map, "parquet": Table, "csv": Csv, "training rows": Training, "captions": Captions,
    "zip archive": Archive,
}  # fmt: skip
