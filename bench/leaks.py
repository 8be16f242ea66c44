"""Plant copies of the miniature's benchmark pictures in a training set, and measure what `mllm-eval leaks` finds.

    python bench/leaks.py [--each 10] [--others 3000] [--encoders mini-dino] [--hashes 1000000] [--queries 20000]
        [--names 7000000]

Copies of pictures of every benchmark are planted, `--each` of each kind: recompressed (JPEG, quality 50), resized (to
0.6 of each side), cropped by a tenth of each side or of the area (at a random place), and flipped. The other rows are
the miniature's own; the same code renders them and the benchmarks, so they look alike but differ in content. `found` is
the share of copies that are found (recall). `taken for another` is the share of false alarms: copies that are also
matched with another picture, or other rows that are matched with any picture. The search in random hashes and
the list of random names are timed, too. Writes results/bench/leaks.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import tempfile
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import report, timed
from PIL import Image, ImageOps

from mllm_eval.catalog import load_benchmark, load_encoder, load_recipe, paper_benchmarks
from mllm_eval.data.samples import shown
from mllm_eval.data.snapshots import load_samples
from mllm_eval.leaks.check import USUAL, check_leaks
from mllm_eval.leaks.findings import Findings
from mllm_eval.leaks.hashes import hash_of, hashes_of_views
from mllm_eval.leaks.pieces import save
from mllm_eval.leaks.search import near
from mllm_eval.leaks.trainingsets import IMAGE, ROWS, write_distinct
from mllm_eval.storage import data_home

chance = random.Random(1)


def recompressed(picture: Image.Image) -> Image.Image:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=50)
    return Image.open(data).convert("RGB")


def resized(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width * 6 // 10, picture.height * 6 // 10), Image.Resampling.BICUBIC)


def cropped(picture: Image.Image, keep: float = 0.9) -> Image.Image:
    width, height = int(picture.width * keep), int(picture.height * keep)
    left, top = chance.randint(0, picture.width - width), chance.randint(0, picture.height - height)
    return picture.crop((left, top, left + width, top + height))


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recompressed": recompressed,
    "resized": resized,
    "cropped, a tenth of each side": cropped,
    "cropped, a tenth of the area": lambda picture: cropped(picture, 0.9**0.5),
    "flipped": ImageOps.mirror,
}


def plant(folder: Path, each: int, others: int) -> dict[str, tuple[str, str]]:
    """Write a training set to `folder`. Returns image name -> (kind of copy, SHA-256 of the original or "")."""
    images, rows, truth = folder / "images", [], {}
    for name in paper_benchmarks():
        pictures = shown([load_samples(load_benchmark(name), "mini")])
        for number, ref in enumerate(chance.sample(pictures, min(len(pictures), each * len(KINDS)))):
            kind = list(KINDS)[number % len(KINDS)]
            file = f"{name}-{number:04d}.png"
            images.mkdir(parents=True, exist_ok=True)
            KINDS[kind](ref.load()).save(images / file)
            truth[file] = (kind, ref.sha256)
            rows.append({"image": file, "conversations": [{"from": "human", "value": "<image>\nDescribe it."},
                                                          {"from": "gpt", "value": "A picture."}]})  # fmt: skip
    source = data_home() / "miniature" / "train"
    lines = (source / "instruction.jsonl").read_text().splitlines()
    for row in filter(lambda row: "image" in row, map(json.loads, chance.sample(lines, others))):
        file = f"other-{row['image'].replace('/', '-')}"
        (images / file).write_bytes((source / "images" / row["image"]).read_bytes())
        rows.append({"image": file, "conversations": row["conversations"]})
        truth.setdefault(file, ("none of these", ""))
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return truth


def near_by_hash(folder: Path, truth: dict[str, tuple[str, str]]) -> dict[str, int]:
    """Kind -> number of copies whose hash is within the radius of one of the views of their original."""
    samples = [load_samples(load_benchmark(name), "mini") for name in paper_benchmarks()]
    views = {ref.sha256: ref for ref in shown(samples)}
    counts: dict[str, int] = defaultdict(int)
    for file, (kind, key) in truth.items():
        if not key:
            continue
        with Image.open(folder / "images" / file) as image:
            bits = np.uint64(hash_of(image.convert("RGB")))
        counts[kind] += bool(np.bitwise_count(hashes_of_views(views[key].load()) ^ bits).min() <= USUAL.radius)
    return counts


def measured(
    encoder: str, findings: Findings, truth: dict[str, tuple[str, str]], near_: dict[str, int]
) -> list[dict[str, Any]]:
    right: set[str] = set()
    wrong: set[str] = set()
    for name in findings.benchmarks:
        for pair in findings.pairs(name):
            file = str(pair["image"])
            own = truth[file][1] == pair["picture"]
            (right if own else wrong).add(file)
    rows = []
    for kind in KINDS:
        planted = [file for file, (own, _) in truth.items() if own == kind]
        rows.append({
            "encoder": encoder, "copies": kind, "planted": len(planted), "near by hash": near_[kind] / len(planted),
            "found": sum(file in right for file in planted) / len(planted),
            "taken for another": sum(file in wrong for file in planted) / len(planted),
        })  # fmt: skip
    others = [file for file, (_, key) in truth.items() if not key]
    alarms = sum(file in wrong for file in others) / len(others) if others else 0.0
    return [*rows, {"encoder": encoder, "copies": "none of these", "planted": len(others), "taken for another": alarms}]


def search(hashes: int, queries: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    many, asked = (rng.integers(0, 2**64, count, dtype=np.uint64) for count in (hashes, queries))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pairs: list[int] = []
    taken = timed(lambda: pairs.append(sum(len(block.query) for block in near(many, asked, USUAL.radius))))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"hashes": hashes, "queries": queries, "radius": USUAL.radius, **taken, "pairs": pairs[0],
            "more_mib": (peak - before) / 1024}  # fmt: skip


def names(count: int) -> dict[str, Any]:
    """Lists random names of so many images, each once, as `TrainingSets.read` does after it has read the rows."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="mllm-eval-bench-") as folder:
        paths = []
        for start in range(0, count, ROWS):
            images = np.zeros(min(ROWS, count - start), IMAGE)
            images["key"] = rng.integers(0, 2**64, len(images), dtype=np.uint64)
            paths.append(Path(folder, f"{start:09d}.npz"))
            save(paths[-1], {"images": images})
        tracemalloc.start()
        taken = timed(lambda: write_distinct(paths, Path(folder, "images.npy")))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return {"names": count, **taken, "bytes_a_name": peak / count}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--each", type=int, default=10, help="copies of each kind of each benchmark")
    parser.add_argument("--others", type=int, default=3000, help="other rows of the training set")
    parser.add_argument("--encoders", default="mini-dino")
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--names", type=int, default=7_000_000)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = [search(asked.hashes, asked.queries), names(asked.names)]
    out = Path(os.environ.get("MLLM_EVAL_RESULTS") or "results").absolute() / "bench" / "leaks.json"
    with tempfile.TemporaryDirectory(prefix="mllm-eval-bench-") as name:
        folder = Path(name)
        # The findings on planted copies must not be written to the user's results.
        os.environ["MLLM_EVAL_RESULTS"] = str(folder / "results")
        truth = plant(folder, asked.each, asked.others)
        near_ = near_by_hash(folder, truth)
        mini = load_recipe("mini").model_dump()
        for stage in ("stage1", "stage2"):
            mini[stage]["data"] = [{"path": str(folder / "train.jsonl"), "images": str(folder / "images")}]
        recipe = load_recipe({**mini, "name": "planted"})
        for encoder in asked.encoders.split(","):
            benchmarks = [load_benchmark(name) for name in paper_benchmarks()]
            findings = check_leaks(recipe, benchmarks, "mini", load_encoder(encoder))
            rows += measured(encoder, findings, truth, near_)
    report("leaks", {"each": asked.each, "others": asked.others}, rows, out)


if __name__ == "__main__":
    main()
