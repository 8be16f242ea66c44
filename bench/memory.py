"""Measure the peak memory of a process that reads, answers and scores 1,000, 10,000 and 100,000 questions.

    python bench/memory.py [--sizes 1000,10000,100000] [--questions 2] [--profile]

Each size runs in its own process, on generated data in DocVQA's format (parquet with small images) and with tiny random
models, so that the memory is that of the questions and not of a model. Peaks are the kernel's VmHWM of the whole
process, in MiB. `--questions` is the number of questions per image. `--profile` prints the lines of code that allocated
the memory in use half-way through each step (tracemalloc, which itself costs time and memory). Writes
results/bench/memory.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import memory, printed_by, report

from mllm_eval.catalog import load_benchmark
from mllm_eval.catalog.benchmark import Benchmark
from mllm_eval.catalog.variant import DEFAULT

# The tiny models of the tests are imported from there.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
BENCHMARK, LONGEST = "docvqa", 4
GOAL = 156 * 2**20 / 63_000  # bytes per question
ROWS = 200  # rows per row group, which is read as a whole


def benchmark() -> Benchmark:
    """DocVQA without fixed numbers of rows, for generated data, and with short answers."""
    known = load_benchmark(BENCHMARK)
    pin = known.data["mini"].model_copy(update={"repo": "made/DocVQA", "rows": None, "ids": None, "chance": None})
    short = known.generation.model_copy(update={"max_new_tokens": LONGEST})
    return known.model_copy(update={"data": {"mini": pin}, "generation": short})


def write(home: Path, rows: int, questions: int) -> None:
    """Write a parquet file with DocVQA's columns. questions: per image; images have 32 x 32 random pixels."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from parquet_rows import arrow
    from PIL import Image

    pin = benchmark().data["mini"]
    path = home / pin.repo / pin.pattern.replace("*", "00000-of-00001")
    path.parent.mkdir(parents=True)
    schema = pa.schema([(name, arrow(name, kind)) for name, kind in pin.columns.items()])
    words = [f"word{number}" for number in range(300)]
    chance = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema) as file:
        for start in range(0, rows, ROWS):
            made = []
            for row in range(start, min(rows, start + ROWS)):
                pixels = np.random.default_rng(row // questions).integers(0, 255, (32, 32, 3), np.uint8)
                data = io.BytesIO()
                Image.fromarray(pixels).save(data, "PNG")
                text = " ".join(chance.choice(words, chance.integers(6, 20)))
                made.append(
                    {"questionId": str(row), "question": f"What is {text}?", "question_types": ["handwritten"],
                     "image": {"bytes": data.getvalue(), "path": f"{row}.png"}, "docId": row,
                     "ucsf_document_id": f"doc{row}", "ucsf_document_page_no": "1", "data_split": "val",
                     "answers": [str(word) for word in chance.choice(words, 3)]}
                )  # fmt: skip
            file.write_table(pa.Table.from_pylist(made, schema))


class Phases:
    """Collects the peak memory (MiB) and CPU seconds of each part of the work in `row`."""

    def __init__(self) -> None:
        self.row: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        start = time.process_time()
        yield
        self.row[f"{name}_mib"] = memory("VmHWM")
        self.row[f"{name}_cpu_seconds"] = time.process_time() - start


class Holding:
    """A reporter that prints the memory in use half-way through each step."""

    def say(self, text: str) -> None:
        """Do nothing."""

    @contextmanager
    def step(self, title: str) -> Iterator[Any]:
        """When half of a step is done, print the 20 lines of code that allocated most of the memory in use."""
        told = False

        def progress(done: int, total: int) -> None:
            nonlocal told
            if not told and 2 * done >= total:
                told = True
                print(f"{title}: half-way, {memory('VmRSS'):.0f} MiB", file=sys.stderr)
                for line in tracemalloc.take_snapshot().statistics("lineno")[:20]:
                    print(f"  {line}", file=sys.stderr)

        if not tracemalloc.is_tracing():
            tracemalloc.start()
        yield progress


def measured(profile: bool) -> dict[str, float]:
    """Load the models, read, answer and score the samples in this process, and return the peaks of each part."""
    from tiny_models import make_conversations, make_encoder, make_llm, make_recipe

    from mllm_eval.adapters import load_encoder_model
    from mllm_eval.data.snapshots import load_samples
    from mllm_eval.distributed import Share
    from mllm_eval.environment import before_torch
    from mllm_eval.features import extraction
    from mllm_eval.model import assemble, load_llm_model, load_tokenizer, save_checkpoint
    from mllm_eval.pipeline.backends import RunSource
    from mllm_eval.pipeline.inference import Inference
    from mllm_eval.pipeline.ledger import Ledger
    from mllm_eval.pipeline.reporter import Silent
    from mllm_eval.pipeline.runscores import DataStates, score_answers
    from mllm_eval.run import Run

    before_torch()
    import torch

    torch.set_num_threads(1)
    # Features are buffered before they are written; the usual 8 MiB would hold thousands of these small images.
    extraction.WRITE_BYTES = 2**18
    home, asked, phase = Path(os.environ["MLLM_EVAL_RESULTS"]), benchmark(), Phases()
    with phase("models"):
        encoder, llm = make_encoder(home / "encoder"), make_llm(home / "llm", width=32, depth=1)
        recipe = make_recipe(*make_conversations(home / "conversations", 2))
        run = Run(encoder, recipe, llm, 0, {"encoder": "made", "llm": "made"})
        tokenizer = load_tokenizer(llm, recipe.template)
        model = assemble(encoder, recipe, load_llm_model(llm, torch.float32), tokenizer)
        save_checkpoint(model, run.checkpoint, load_encoder_model(encoder, torch.float32))
        listener = Holding() if profile else Silent()
        ledger = Ledger(run.folder, listener)
        source = RunSource(run, lambda: None, ledger)
        assert source.model is not None
    with phase("reading"):
        samples = load_samples(asked, "mini")
    with phase("answering"):
        Inference(run, source, ledger, Share()).answer([(asked, DEFAULT)], lambda *_: None)
    with phase("scoring"):
        score_answers(run, asked, DEFAULT, samples, DataStates(run.data))
    return {**phase.row, "peak_mib": max(value for key, value in phase.row.items() if key.endswith("_mib"))}


def spent(rows: int, questions: int, profile: bool) -> dict[str, float]:
    """Run `measured` in its own process on `rows` questions, in a temporary folder, and return its result."""
    with tempfile.TemporaryDirectory(prefix="mllm-eval-memory-") as folder:
        write(Path(folder) / "data", rows, questions)
        paths = {"MLLM_EVAL_DATA": f"{folder}/data", "MLLM_EVAL_RESULTS": f"{folder}/results"}
        command = [sys.executable, __file__, "--inside", *(["--profile"] if profile else [])]
        return printed_by(command, {**os.environ, **paths})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.inside:
        print(json.dumps(measured(asked.profile)))
        return
    rows: list[dict[str, Any]] = []
    for size in map(int, asked.sizes.split(",")):
        figures = spent(size, asked.questions, asked.profile)
        rows.append(
            {"questions": size, **figures, "times_the_first": figures["peak_mib"] / rows[0]["peak_mib"] if rows else 1}
        )
    report("memory", {"questions_per_image": asked.questions}, rows, asked.out)
    if more := rows[-1]["questions"] - rows[0]["questions"]:
        each = (rows[-1]["peak_mib"] - rows[0]["peak_mib"]) * 2**20 / more
        print(f"{each:,.0f} bytes a question (goal: at most {GOAL:,.0f})")


if __name__ == "__main__":
    main()
