"""Tiny synthetic snapshots in the upstream schemas, made from the columns that each yaml names."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mllm_eval.catalog import load_benchmark
from mllm_eval.catalog.benchmark import Benchmark, Pin

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
STRUCTS = {
    "metadata": pa.struct([("category", pa.string()), ("split", pa.string())]),
    "annotations": pa.struct([("question", pa.list_(pa.string()))]),
    "semantic": pa.list_(pa.struct([("operation", pa.string())])),
    "segment": pa.list_(pa.string()),
}


def unpinned(name: str) -> Benchmark:
    """A benchmark whose `mini` pin takes any rows: these here are not the miniature's."""
    benchmark = load_benchmark(name)
    free = {key: pin.model_copy(update={"rows": None, "ids": None}) for key, pin in benchmark.data.items()}
    return benchmark.model_copy(update={"data": free})


def png(shade: int, size: tuple[int, int] = (6, 4)) -> dict[str, Any]:
    """An image cell; different shades are different bytes."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade % 256, shade // 256, 7)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{shade}.png"}


def arrow(name: str, kind: str) -> pa.DataType:
    """The arrow type of a column as a yaml names it; the first of several."""
    kind = kind.partition("|")[0]
    if kind == "image":
        return IMAGE
    if kind.startswith("list<"):
        return pa.list_(arrow(name, kind[5:-1]))
    if kind.startswith("struct<"):
        fields = (field.split(": ") for field in kind[7:-1].split(", "))
        return pa.struct([(field, arrow(field, inner)) for field, inner in fields])
    return STRUCTS[name] if kind in ("struct", "list") else pa.type_for_alias(kind)


def write_parquet(home: Path, pin: Pin, rows: list[dict[str, Any]], groups: int = 2) -> Path:
    """One parquet file of a pin, missing columns as nulls, a few rows to a row group."""
    path = home / pin.repo / pin.pattern.replace("*", "00000-of-00001")
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, arrow(name, kind)) for name, kind in pin.columns.items()])
    whole = [{name: row.get(name) for name in pin.columns} for row in rows]
    pq.write_table(pa.Table.from_pylist(whole, schema), path, row_group_size=groups)
    return path


def write_mini(home: Path, benchmark: Benchmark, rows: list[dict[str, Any]]) -> Path:
    """The `mini` pin of a benchmark; images of a csv or a second table are taken from the rows' `image`."""
    pin = benchmark.data["mini"]
    if pin.image_files:
        folder = home / pin.repo
        for row in rows:
            picture = folder / pin.image_files.format(**row)
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(row["image"]["bytes"])
        upstream = {name: head for head, name in benchmark.aliases.items() if head != "lndex"}
        with (folder / pin.pattern).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([upstream[name] for name in pin.columns])
            writer.writerows([row[name] for name in pin.columns] for row in rows)
        return folder / pin.pattern
    if pin.join is not None:
        join = pin.join
        pictures = {row[join.column]: row["image"] for row in rows}
        table = [{join.key: key, join.image: image} for key, image in pictures.items()]
        write_parquet(home, pin.extra[join.table], table)
    return write_parquet(home, pin, rows)


def rows_of(name: str) -> list[dict[str, Any]]:
    """A few rows of each of the sixteen benchmarks."""
    return ROWS[name]()


def _mme() -> list[dict[str, Any]]:
    ask = "Is there a dog in this image? Please answer yes or no."
    names = ("existence/1.jpg", "existence/2.jpg")
    return [
        {"question_id": name, "image": png(i), "question": ask, "answer": gold, "category": "existence"}
        for i, name in enumerate(names)
        for gold in ("Yes", "No")
    ]


def _mmbench() -> list[dict[str, Any]]:
    rows = []
    for turn, gold in enumerate("AB"):
        texts = {"A": "ice", "B": "water"} if turn == 0 else {"A": "water", "B": "ice"}
        facts = {"question": "Which?", "hint": "nan", "C": "nan", "D": "nan", "answer": gold, "source": "s"}
        rows.append({"index": 7 + turn * 1_000_000, **texts, **facts, "category": "c", "image": png(1)})
    return rows


def _options(**more: Any) -> dict[str, Any]:
    return {"question": "Which?", "options": ["red", "green", "blue", "white"], "answer": "2", **more}


def _textvqa() -> list[dict[str, Any]]:
    base = {"question": "brand?", "answers": ["dakota"] * 10}
    return [
        {"question_id": 34602, **base, "ocr_tokens": ["dakota", "digital"], "image": png(1)},
        {"question_id": 34603, **base, "ocr_tokens": [], "image": png(2)},
    ]


def _mmmu() -> list[dict[str, Any]]:
    options = "['$6', '<image 2>', \"I don't know\"]"
    mc = {"question": "<image 1> What of <image 2>?", "options": options, "question_type": "multiple-choice"}
    opened = {"question": "<image 1> How many?", "options": "[]", "question_type": "open", "answer": "5"}
    return [
        {"id": "validation_Art_Theory_1", **mc, "answer": "B", "image_1": png(1), "image_2": png(2)},
        {"id": "validation_Art_1", **opened, "image_1": png(3)},
    ]


def _cvbench(source: str) -> list[dict[str, Any]]:
    text = "How many? Select from the following choices.\n(A) 1\n(B) 2"
    facts = {"choices": ["1", "2"], "answer": "(A)", "prompt": text, "question": "How many?", "task": "Count"}
    return [{"idx": i, **facts, "source": source, "image": png(i)} for i in range(2)]


ROWS: dict[str, Any] = {
    "mme": _mme,
    "mmbench_en": _mmbench,
    "gqa": lambda: [
        {"id": str(i), "imageId": "n1", "question": "Blue?", "answer": "yes", "image": png(1)} for i in range(3)
    ],
    "seed": lambda: [
        {
            **{f"choice_{letter}": letter * 2 for letter in "abcd"},
            **{"question": "What?", "question_id": str(i), "question_type_id": 5, "answer": "A"},
            "image": [png(i)] * frames,
        }
        for i, frames in enumerate((1, 3, 1))
    ],
    "scienceqa": lambda: [
        {"question": "Which?", "hint": "", "choices": ["x", "y"], "answer": 1, "image": png(1)},
        {"question": "Text only?", "hint": "Look.", "choices": ["x", "y"], "answer": 0, "image": None},
        {"question": "And?", "hint": "Look.", "choices": ["x", "y"], "answer": 0, "image": png(2)},
    ],
    "mmmu": _mmmu,
    "mathvista": lambda: [
        {
            **{"pid": "1", "query": "Hint: ..\nQuestion: q", "question_type": "multi_choice", "answer": "b"},
            **{"choices": ["a", "b"], "metadata": {"category": "general-vqa"}, "decoded_image": png(1)},
        },
        {"pid": "2", "query": "Q", "question_type": "free_form", "answer": "5", "decoded_image": png(2)},
    ],
    "ai2d": lambda: [_options(image=png(1)), _options(image=png(1))],
    "chartqa": lambda: [{"type": "human_test", "question": "How many?", "answer": "14", "image": png(1)}],
    "ocrbench": lambda: [
        {"question": "text?", "question_type": "Digit String Recognition", "answer": ["57"], "image": png(1)}
    ],
    "textvqa": _textvqa,
    "docvqa": lambda: [{"questionId": "57", "question": "date?", "answers": ["1998"], "image": png(1)}],
    "mmvp": lambda: [
        {"index": i, "question": "Open?", "options": "(a) Open (b) Closed", "answer": gold, "image": png(i)}
        for i, gold in ((1, "(a)"), (2, "(b)"))
    ],
    "realworldqa": lambda: [{"question": "Safe?\n\nA. Yes\nB. No", "answer": "A", "image": png(1)}],
    "cvbench_2d": lambda: _cvbench("ADE20K"),
    "cvbench_3d": lambda: _cvbench("Omni3D"),
}
