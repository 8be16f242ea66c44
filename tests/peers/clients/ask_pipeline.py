"""Asks by transformers' `pipeline("image-text-to-text")`: `python ask_pipeline.py EXPORT FOLDER OUT`.

FOLDER holds questions.jsonl, a line of id, question, images (files there) and limit (tokens of an answer); OUT gets a
line of id and text for each. This file runs in the client's environment, which holds nothing of this project.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image
from transformers import pipeline


def main(export: str, folder: Path, out: Path) -> None:
    """Ask every question, greedily, as the checkpoint's own chat template puts it."""
    pipe = pipeline("image-text-to-text", model=export, device="cpu")
    answers = []
    for line in (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        asked = json.loads(line)
        shown = [{"type": "image", "image": Image.open(folder / name)} for name in asked["images"]]
        messages = [{"role": "user", "content": [*shown, {"type": "text", "text": asked["question"]}]}]
        told = pipe(text=messages, return_full_text=False, max_new_tokens=asked["limit"], do_sample=False)
        answers.append({"id": asked["id"], "text": told[0]["generated_text"]})
    out.write_text("".join(json.dumps(one) + "\n" for one in answers), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
