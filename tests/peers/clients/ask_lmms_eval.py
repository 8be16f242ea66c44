"""Asks by lmms-eval's `llava_hf`: `python ask_lmms_eval.py EXPORT FOLDER OUT`.

FOLDER and OUT are those of ask_pipeline.py. A task is written for each limit of tokens; the answers are those of the
harness's own log of samples.
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness_tasks import answers_logged, run_harness, write_tasks

TASK = """\
dataset_path: parquet
dataset_kwargs: {data_files: {test: %s}}
task: %s
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
# It puts a mark for each image in front of the text itself.
ASKING = """\
import io

from PIL import Image


def visual(doc):
    return [Image.open(io.BytesIO(one)).convert("RGB") for one in doc["images"]]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def results(doc, results):
    return {"answered": 1.0}


def mean(values):
    return sum(values) / len(values)
"""


def main(export: str, folder: Path, out: Path) -> None:
    """Write the tasks, run the harness, and read what it logged."""
    tasks = write_tasks(folder, out.parent / "tasks", TASK, ASKING)
    words = ["lmms_eval", "--model", "llava_hf", "--model_args",
             f"pretrained={export},device=cpu,device_map=cpu,dtype=float32", "--tasks", ",".join(tasks),
             "--include_path", str(out.parent / "tasks"), "--batch_size", "1", "--log_samples"]  # fmt: skip
    run_harness(words, out.parent / "logged")
    answers_logged(out.parent / "logged", out.parent / "tasks", out)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
