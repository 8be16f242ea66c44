"""Asks by lm-evaluation-harness' `hf-multimodal`: `python ask_lm_eval.py EXPORT FOLDER OUT`.

FOLDER and OUT are those of ask_pipeline.py. A task is written for each limit of tokens; the answers are those of the
harness's own log of samples.
"""

from __future__ import annotations

from harness_tasks import ask

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

WORDS = ["lm_eval", "run", "--model", "hf-multimodal", "--model_args", "pretrained={export},dtype=float32",
         "--apply_chat_template", "--device", "cpu"]  # fmt: skip

if __name__ == "__main__":
    ask(WORDS, TASK, ASKING)
