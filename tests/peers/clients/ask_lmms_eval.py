"""Asks by lmms-eval's `llava_hf`: `python ask_lmms_eval.py EXPORT FOLDER OUT`.

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

WORDS = ["lmms_eval", "--model", "llava_hf", "--model_args",
         "pretrained={export},device=cpu,device_map=cpu,dtype=float32"]  # fmt: skip

if __name__ == "__main__":
    ask(WORDS, TASK, ASKING)
