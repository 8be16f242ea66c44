"""Asks by lm-evaluation-harness' `hf-multimodal`: `python ask_lm_eval.py EXPORT FOLDER OUT`.

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
doc_to_image: !function asking.images
doc_to_text: !function asking.text
doc_to_target: answer
generation_kwargs: {max_gen_toks: %d, temperature: 0, do_sample: false, until: []}
process_results: !function asking.results
metric_list:
  - {metric: answered, aggregation: mean, higher_is_better: true}
"""
# The harness gives its template an image for each mark, and takes the marks out of the text.
ASKING = """\
import io

from PIL import Image


def images(doc):
    return [Image.open(io.BytesIO(one)) for one in doc["images"]]


def text(doc):
    return "<image>" * len(doc["images"]) + doc["question"]


def results(doc, results):
    return {"answered": 1.0}
"""


def main(export: str, folder: Path, out: Path) -> None:
    """Write the tasks, run the harness, and read what it logged."""
    tasks = write_tasks(folder, out.parent / "tasks", TASK, ASKING)
    words = ["lm_eval", "run", "--model", "hf-multimodal", "--model_args", f"pretrained={export},dtype=float32",
             "--tasks", ",".join(tasks), "--include_path", str(out.parent / "tasks"), "--apply_chat_template",
             "--device", "cpu", "--batch_size", "1", "--log_samples"]  # fmt: skip
    run_harness(words, out.parent / "logged")
    answers_logged(out.parent / "logged", out.parent / "tasks", out)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
