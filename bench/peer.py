"""Time answering by this project against lmms-eval's `llava_hf`, on the same weights, images and questions.

    python bench/peer.py --python VENV/bin/python [--shape desk] [--images 16] [--each 2] [--threads 2]

`--python` is the interpreter of a separate environment in which lmms-eval is installed (tried: 0.7.3 without
torchvision). The model is a small LLaVA-1.5: a CLIP tower and a LLaMA with random weights and the miniature's
tokenizer. With `--shape desk` the LLM has SmolLM2-135M's shape, and an image has 64 tokens. It is exported as by
`mllm-eval export`, as a LlavaForConditionalGeneration of transformers, which lmms-eval loads.

Questions are in one parquet file, two per image, as in MME. lmms-eval accepts only batches of one, and its start takes
about as long as answering some dozens of questions. It is therefore timed at two numbers of questions, and the cost of
one more question is compared with the cost of a question in this project's way, cold, on the same images. lmms-eval
exits with 0 even when it fails, so this script checks whether it wrote results. Writes results/bench/peer.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import report

TASK = """\
dataset_path: parquet
dataset_kwargs: {data_files: {test: %s}}
task: asked
test_split: test
output_type: generate_until
doc_to_visual: !function asking.visual
doc_to_text: !function asking.text
doc_to_target: answer
generation_kwargs: {max_new_tokens: %d, temperature: 0, do_sample: false, num_beams: 1}
process_results: !function asking.results
metric_list:
  - {metric: answered, aggregation: !function asking.mean, higher_is_better: true}
"""
FUNCTIONS = """\
import io

from PIL import Image


def visual(doc):
    return [Image.open(io.BytesIO(doc["image"]["bytes"])).convert("RGB")]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def results(doc, results):
    return {"answered": 1.0}


def mean(values):
    return sum(values) / len(values)
"""


# Encoder, LLM, and size of the vocabulary (0: the tokenizer's). `tiny` is only to test that the script runs.
SHAPES = {
    "long": ("ViT-S/14@336", "8x256", 0),
    "desk": ("ViT-S/14@112", "SmolLM-135M", 49152),
    "tiny": ("2x32@56", "2x32", 0),
}


def prepare(folder: Path, images: int, each: int, shape: str) -> tuple[Any, list[Any]]:
    """Build the model and the samples. Write the exported model, a parquet file and lmms-eval's task to `folder`."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from asked import LONGEST, build, samples
    from photographs import photograph

    from mllm_eval.catalog import load_llm, load_recipe
    from mllm_eval.model.checkpoint import load_tokenizer, save_checkpoint
    from mllm_eval.model.export import export_llava
    from mllm_eval.prompts import IMAGE

    tokenizer = load_tokenizer(load_llm("mini-llama"), load_recipe("mini").template)
    end = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    encoder, llm, words = SHAPES[shape]
    words = max(words, len(tokenizer))
    model = build(encoder, llm, words, tokenizer, end, tokenizer.convert_tokens_to_ids(IMAGE))
    model.config.template = load_recipe("mini").template
    asked = samples([each] * images)
    save_checkpoint(model, folder / "checkpoint")
    print(export_llava(folder / "checkpoint", folder / "llava"))
    shown = {number: photograph(number) for number in range(images)}
    rows = [
        {"question": sample.prompt, "answer": "", "image": {"bytes": shown[int(sample.id.split("-")[0])], "path": None}}
        for sample in asked
    ]
    (folder / "tasks").mkdir()
    (folder / "tasks" / "asking.py").write_text(FUNCTIONS)
    pq.write_table(pa.Table.from_pylist(rows), folder / "asked.parquet")
    (folder / "tasks" / "asked.yaml").write_text(TASK % (folder / "asked.parquet", LONGEST))
    return model, asked


def peer(python: Path, folder: Path, limit: int, threads: int) -> tuple[float, float, list[str]]:
    """CPU and wall seconds of lmms-eval on the first `limit` questions, and its answers.

    Exits with a message if lmms-eval wrote no results.
    """
    out, empty = folder / f"out-{limit}", folder / "cwd"
    empty.mkdir(exist_ok=True)
    command = [str(python), "-m", "lmms_eval", "--model", "llava_hf", "--model_args",
               f"pretrained={folder / 'llava'},device=cpu,device_map=cpu,dtype=float32", "--tasks", "asked",
               "--include_path", str(folder / "tasks"), "--batch_size", "1", "--output_path", str(out),
               "--log_samples", "--limit", str(limit)]  # fmt: skip
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(folder / "hf"),
        "DS_ACCELERATOR": "cpu",
    }
    numbers = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=empty, env={**os.environ, **offline, **numbers}, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    files = sorted(out.rglob("*samples_asked*.jsonl"))
    if not files or not list(out.rglob("*results.json")):
        sys.exit(f"lmms-eval wrote no results (exit code {done.returncode}):\n{done.stderr[-3000:]}")
    lines = [json.loads(line) for line in files[-1].read_text().splitlines()]
    lines.sort(key=lambda line: line["doc_id"])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall, [_text(line) for line in lines]


def _text(line: dict[str, Any]) -> str:
    text = line["filtered_resps"]
    while isinstance(text, list):
        text = text[0]
    return str(text).strip()


def ours(model: Any, asked: list[Any], folder: Path) -> tuple[float, float, list[str]]:
    """CPU and wall seconds of this project's way without stored features, and its answers."""
    from asked import shared_way

    start, wall = time.process_time(), time.perf_counter()
    answers = shared_way(model, asked, folder, "cold", model.config.template)
    return time.process_time() - start, time.perf_counter() - wall, [answer.text for answer in answers]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--python", type=Path, help="of the environment that lmms-eval is in")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--each", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shape", choices=SHAPES, default="long", help="of encoder and LLM")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.python is None:
        print("peer: left out; it needs --python of an environment that lmms-eval is installed in")
        return
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch
    from asked import samples, shared_way_once

    from mllm_eval.kernels import use_kernels

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="mllm-eval-bench-") as name:
        folder = Path(name)
        model, asked = prepare(folder, options.images, options.each, options.shape)
        shared_way_once(model, samples([2, 1]), model.config.template)
        few = max(1, len(asked) // 8)
        short = peer(options.python, folder, few, options.threads)
        whole = peer(options.python, folder, len(asked), options.threads)
        mine = ours(use_kernels(model), asked, folder)
    row: dict[str, Any] = {"questions": len(asked), "images": options.images, "threads": options.threads}
    row["same_answers"] = sum(one == other for one, other in zip(whole[2], mine[2], strict=True))
    row["distinct_answers"] = len(set(whole[2]))
    for at, clock in enumerate(("cpu", "wall")):
        row[f"peer_{clock}_seconds"] = whole[at]
        row[f"peer_{clock}_a_question"] = (whole[at] - short[at]) / (len(asked) - few)
        row[f"cold_{clock}_a_question"] = mine[at] / len(asked)
        row[f"{clock}_speedup"] = row[f"peer_{clock}_a_question"] / row[f"cold_{clock}_a_question"]
    report("peer", {"shape": options.shape}, [row], options.out)


if __name__ == "__main__":
    main()
