"""Measure memory and time of reading training conversations from a generated file in the format of Cambrian-7M.

    python bench/reading.py [--rows 10000000] [--tokenise 200000] [--llm mini-llama]

The file (about 0.5 KB per row) is written to a temporary folder. First the positions of all its rows are indexed, and a
thousand rows are read in random order. Then `--tokenise` rows are tokenised as for a stage with `features: live`.
Printed are the seconds, and the growth of the peak resident memory (MiB). Resident memory includes mapped file pages
that the system could drop, so the growth of heap memory is printed as well.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import memory
from PIL import Image

from mllm_eval.catalog import load_llm
from mllm_eval.data.conversations import ConversationSet
from mllm_eval.environment import before_torch

QUESTION = "<image>\\nWhat is the number on sign {0}? Answer the question using a single word or phrase."
ANSWER = "The sign shows the number {0}, in white on a green ground. " * 4


def generated(rows: int) -> Iterator[str]:
    """JSON lines of conversations; every tenth has no image."""
    for row in range(rows):
        question, answer = QUESTION.format(row), ANSWER.format(row)
        said = f'{{"from": "human", "value": "{question}"}}, {{"from": "gpt", "value": "{answer}"}}'
        if row % 10:
            yield f'{{"id": "{row}", "image": "signs/0.png", "conversations": [{said}]}}\n'
        else:
            yield f'{{"id": "{row}", "conversations": [{said.replace("<image>", "")}]}}\n'


def measured(title: str, work: Callable[[], object]) -> object:
    """Call `work`, print its seconds and memory, and return its result."""
    peak, before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, memory("RssAnon"), time.monotonic()
    made = work()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    heap = memory("RssAnon") - before
    print(f"{title:<46} {time.monotonic() - start:8.1f} s  peak +{grown:6.0f} MiB  heap {heap:+6.0f} MiB")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--tokenise", type=int, default=200_000)
    parser.add_argument("--llm", default="mini-llama")
    asked = parser.parse_args()
    before_torch()
    folder = Path(tempfile.mkdtemp(prefix="reading-"))
    os.environ["MLLM_EVAL_RESULTS"] = str(folder / "results")
    try:
        (folder / "images" / "signs").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "images" / "signs" / "0.png")
        path, short = folder / "rows.jsonl", folder / "short.jsonl"
        for one, rows in ((path, asked.rows), (short, asked.tokenise)):
            with open(one, "w") as file:
                file.writelines(generated(rows))
        print(f"{asked.rows:,} rows, {path.stat().st_size / 1e9:.2f} GB")
        index = folder / "index"
        measured("index, built", lambda: ConversationSet(path, folder / "images", index=index))
        conversations = measured("index, mapped", lambda: ConversationSet(path, folder / "images", index=index))
        assert isinstance(conversations, ConversationSet)
        chosen = random.Random(0).choices(range(len(conversations)), k=1000)
        measured("1000 rows in random order", lambda: [conversations[row] for row in chosen])

        from mllm_eval.model import load_tokenizer
        from mllm_eval.train.rowtokens import ImageReading, tokenise

        tokenizer = load_tokenizer(load_llm(asked.llm), "llama_3_meta")
        rows = ConversationSet(short, folder / "images", index=index)
        made = measured(
            f"{asked.tokenise:,} rows tokenised",
            lambda: tokenise([rows], tokenizer, "digest", "llama_3_meta", images=ImageReading(live=True)),
        )
        print(f"{len(made.ids):,} tokens")  # type: ignore[attr-defined]
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
