"""Small data sets in the real layouts, and protocols that read them, for the tests of probes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mllm_eval.catalog.probe import ProbeData, Protocol, load_protocol

COLOURS = {"n01": (220, 30, 30), "n02": (30, 200, 60), "n03": (40, 60, 220)}


def _picture(rng: np.random.Generator, colour: tuple[int, int, int], size: tuple[int, int] = (36, 30)) -> Image.Image:
    values = rng.integers(0, 60, (size[1], size[0], 3)) + np.array(colour) * 3 // 4
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def imagenet(folder: Path, train: int = 8, val: int = 5) -> Path:
    """Three classes, told apart by their colour."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name, colour in COLOURS.items():
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                _picture(rng, colour).save(place / f"{name}_{number}.png")
    return folder


def imagenet_parquet(folder: Path, count: int = 6) -> Path:
    """As `imagenet`, in two files of the hub's form a split, with `image` and `label`."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    for split in ("train", "validation"):
        for part in range(2):
            rows = []
            for number in range(count):
                label = number % 3
                into = io.BytesIO()
                _picture(rng, list(COLOURS.values())[label]).save(into, "PNG")
                rows.append({"image": {"bytes": into.getvalue(), "path": f"{number}.png"}, "label": label})
            table = pa.Table.from_pylist(rows)
            pq.write_table(table, folder / "data" / f"{split}-{part:05d}-of-00002.parquet", row_group_size=4)
    return folder


def ade20k(folder: Path, train: int = 6, val: int = 5) -> Path:
    """Left half of one class, right half of another; the top row is none of them."""
    rng = np.random.default_rng(1)
    for split, count in (("training", train), ("validation", val)):
        for part in ("images", "annotations"):
            (folder / part / split).mkdir(parents=True)
        for number in range(count):
            left, right = rng.permutation(3)[:2]
            values, mask = np.zeros((32, 40, 3), np.uint8), np.zeros((32, 40), np.uint8)
            for side, label in ((slice(0, 20), left), (slice(20, 40), right)):
                values[:, side] = list(COLOURS.values())[label]
                mask[:, side] = label + 1
            mask[0] = 0
            Image.fromarray(values).save(folder / "images" / split / f"x{number}.jpg")
            Image.fromarray(mask).save(folder / "annotations" / split / f"x{number}.png")
    return folder


def nyu(folder: Path, train: int = 6, test: int = 5, root: str = "official_splits/test") -> Path:
    """Brightness is depth; the training images lie in sync/, the others as the release has them."""
    rng = np.random.default_rng(2)
    for split, count, place in (("train", train, "sync"), ("test", test, root)):
        (folder / place / "den").mkdir(parents=True)
        lines = []
        for number in range(count):
            metres = rng.uniform(1, 9, (30, 1)) * np.ones((30, 40))
            grey = np.repeat((metres * 25).astype(np.uint8)[..., None], 3, 2)
            metres[:2] = 0
            Image.fromarray(grey).save(folder / place / f"den/rgb_{number}.png")
            Image.fromarray((metres * 1000).astype(np.uint16)).save(folder / place / f"den/sync_depth_{number}.png")
            lines.append(f"/den/rgb_{number}.png /den/sync_depth_{number}.png 518.8579\n")
        (folder / f"nyu_{split}.txt").write_text("".join(lines))
    return folder


SMALL: dict[str, dict[str, Any]] = {
    "in1k_linear": {"batch": 8, "steps": 6, "rates": [0.1, 1.0], "crop": [0.5, 1.0], "holdout": 0.25},
    "in1k_knn": {"neighbours": [1, 3], "holdout": 0.25},
    "in1k_logreg": {"count": 3, "iterations": 50, "tolerance": 1e-4, "holdout": 0.25},
    "ade20k_linear": {"crop": [28, 28], "shorter": 30, "stride": 19, "batch": 4, "steps": 5, "warmup": 2, "rate": 0.05},
    "ade20k_ms": {"crop": [28, 28], "shorter": 30, "stride": 19, "batch": 4, "steps": 4, "warmup": 2, "rate": 0.05,
                  "scales": [1.0, 1.3], "test_flip": True},
    "nyu_linear1": {"crop": [26, 34], "frame": [1, 1, 39, 29], "window": [1, 29, 1, 39], "batch": 4, "steps": 5,
                    "rate": 0.01, "warmup": 2, "still": 1, "bins": 16},
}  # fmt: skip
SMALL["nyu_linear4"] = SMALL["nyu_linear1"]
LAYOUT: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "in1k": ("imagenet", imagenet, {"train": "train", "test": "val"}),
    "ade20k": ("ade20k", ade20k, {"train": "training", "test": "validation", "classes": 3}),
    "nyu": (
        "nyu",
        nyu,
        {
            "train": "nyu_train.txt",
            "test": "nyu_test.txt",
            "roots": ["", "sync"],
            "test_roots": ["official_splits/test"],
        },
    ),
}


def protocol(name: str, folder: Path) -> Protocol:
    """A shipped protocol with fewer steps, on a small data set that is written under `folder` if it is not there."""
    layout, write, facts = LAYOUT[name.partition("_")[0]]
    place = folder / layout
    if not place.exists():
        write(place)
    data = ProbeData(layout=layout, folder=str(place), beside="mini", scaled=SMALL[name], **facts)  # type: ignore[arg-type]
    return load_protocol(name).model_copy(update={"data": {"small": data}}).on("small")
