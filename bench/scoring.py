"""Time scoring of 63,000 answers to all sixteen benchmarks, in their true proportions, under both rule sets.

    python bench/scoring.py [--answers 63000] [--rounds 1]

It measures the work of `mllm-eval score BENCHMARK --answers FILE`: reading the file, checking records and groups,
parsing, scoring, and summing up. Records and answers are random and have different words, so that caches help no more
than in a real run. The goal is 10 s for both rule sets. Writes results/bench/scoring.json.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness import report, timed

from mllm_eval.catalog import load_benchmark
from mllm_eval.score.files import ScoringOptions, score_answers

# Number of questions that are asked: only those about one image in SEED-Bench, and those with an image in ScienceQA.
ASKED = {
    **{"mme": 2374, "mmbench_en": 4377, "gqa": 12578, "seed": 14233, "scienceqa": 2017, "mmmu": 900},
    **{"mathvista": 1000, "ai2d": 3088, "chartqa": 2500, "ocrbench": 1000, "textvqa": 5000, "docvqa": 5349},
    **{"mmvp": 300, "realworldqa": 765, "cvbench_2d": 1438, "cvbench_3d": 1200},
}
GOAL = 10.0
Record = dict[str, Any]
chance = random.Random(0)


def word() -> str:
    return "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 9)))


def words(least: int = 1, most: int = 3) -> str:
    return " ".join(word() for _ in range(chance.randint(least, most)))


def number() -> str:
    return chance.choice([str(chance.randint(0, 3000)), f"{chance.random() * 100:.2f}", f"{chance.randint(1, 99)}%"])


def choice(options: list[str]) -> str:
    """A random answer to a multiple-choice question, mostly a letter."""
    letter = chance.choice("ABCD"[: len(options)])
    text = options["ABCD".index(letter)]
    forms = [letter] * 12 + [f"({letter})", f"{letter}. {text}", text, f"The answer is: {letter}.", words(8, 30)]
    return chance.choice(forms)


def short(gold: str) -> str:
    """A random answer to an open question; half of them contain the gold."""
    return chance.choice([gold, gold.upper() + ".", f"The answer is {gold}", words(), number(), words(6, 20)])


def options(count: int = 4) -> list[str]:
    return [words() for _ in range(count)]


def mme(i: int) -> tuple[Record, str]:
    categories = ["existence", "count", "position", "color", "posters", "scene", "OCR", "code_reasoning"]
    category = categories[i // 2 % len(categories)]
    record = {"question_id": f"{category}/{i // 2}.png", "category": category, "answer": ("Yes", "No")[i % 2]}
    return record, chance.choice(["Yes", "No", "yes.", "No", "Yes, it is.", words(4, 9)])


def mmbench_en(i: int) -> tuple[Record, str]:
    texts = options()
    record = {"index": i // 4 + (i % 4) * 1_000_000, "answer": "ABCD"[i % 4], "category": f"category {i // 4 % 20}"}
    return {**record, **dict(zip("ABCD", texts, strict=True))}, choice(texts)


def mmmu(i: int) -> tuple[Record, str]:
    texts, is_open = options(), i % 17 == 0
    kind = {"question_type": "open", "options": "[]", "answer": number()} if is_open else {
        "question_type": "multiple-choice", "options": str(texts), "answer": chance.choice("ABCD")}  # fmt: skip
    return {"id": f"validation_Art_{i}", **kind}, short(str(kind["answer"])) if is_open else choice(texts)


def mathvista(i: int) -> tuple[Record, str]:
    texts = options()
    if i % 2:
        gold = number()
        record = {"question_type": "free_form", "choices": None, "answer": gold, "category": "general-vqa"}
        return record, short(gold)
    record = {"question_type": "multi_choice", "choices": texts, "answer": texts[i % 4], "category": "general-vqa"}
    return record, f"{words(20, 80)}. The answer is {choice(texts)}"


def textvqa(i: int) -> tuple[Record, str]:
    golds = [words(1, 2) for _ in range(4)]
    return {"answers": [golds[0]] * 6 + golds}, short(golds[0])


def chosen(field: str, gold: Callable[[int], Any], **more: Any) -> Callable[[int], tuple[Record, str]]:
    def made(i: int) -> tuple[Record, str]:
        texts = options()
        return {field: texts, "answer": gold(i % 4), **more}, choice(texts)

    return made


def opened(field: str, many: bool, **more: Any) -> Callable[[int], tuple[Record, str]]:
    def made(i: int) -> tuple[Record, str]:
        gold = chance.choice([words(), number(), "yes"])
        return {field: [gold, words()] if many else gold, "questionId": str(i), **more}, short(gold)

    return made


def seed(i: int) -> tuple[Record, str]:
    texts = options()
    return {
        **{f"choice_{letter}": text for letter, text in zip("abcd", texts, strict=True)},
        "question_type_id": i % 9 + 1, "answer": "ABCD"[i % 4],
    }, choice(texts)  # fmt: skip


def mmvp(i: int) -> tuple[Record, str]:
    texts = options(2)
    return {"index": i + 1, "options": f"(a) {texts[0]} (b) {texts[1]}", "answer": ("(a)", "(b)")[i % 2]}, choice(texts)


MADE: dict[str, Callable[[int], tuple[Record, str]]] = {
    **{"mme": mme, "mmbench_en": mmbench_en, "gqa": opened("answer", False), "seed": seed, "mmmu": mmmu},
    **{"scienceqa": chosen("choices", int, grade="grade3"), "mathvista": mathvista, "ai2d": chosen("options", str)},
    **{"chartqa": opened("answer", False, type="human_test"), "textvqa": textvqa, "docvqa": opened("answers", True)},
    **{"ocrbench": opened("answer", True, question_type="Doc-oriented VQA"), "mmvp": mmvp},
    **{"realworldqa": opened("answer", False, question="How many?")},
    **{"cvbench_2d": chosen("choices", lambda at: f"({'ABCD'[at]})", source="COCO", task="Count")},
    **{"cvbench_3d": chosen("choices", lambda at: f"({'ABCD'[at]})", task="Depth")},
}


def write(folder: Path, name: str, count: int) -> Path:
    """Write a file of `count` random answers to a benchmark, with their records, and return its path."""
    path = folder / f"{name}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            record, prediction = MADE[name](i)
            file.write(json.dumps({"id": str(i), "record": record, "prediction": prediction}) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--answers", type=int, default=63_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    share = asked.answers / sum(ASKED.values())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, size in ASKED.items():
            count = 4 * math.ceil(size * share / 4)  # whole pairs and rotations
            path, benchmark = write(Path(folder), name, count), load_benchmark(name)
            row: dict[str, Any] = {"benchmark": name, "answers": count}
            for rules in benchmark.rules:
                taken = timed(partial(score_answers, benchmark, path, ScoringOptions(rules)), asked.rounds)
                row |= {f"{rules}_{clock}": seconds for clock, seconds in taken.items()}
            rows.append(row)
    total: dict[str, Any] = {"benchmark": "in all"}
    total |= {key: sum(row[key] for row in rows) for key in rows[0] if key != "benchmark"}
    report("scoring", {"answers": total["answers"], "rounds": asked.rounds}, [*rows, total], asked.out)
    for clock in ("wall", "cpu"):
        spent = sum(value for key, value in total.items() if key.endswith(f"_{clock}_seconds"))
        print(f"both rule sets: {spent:.2f} {clock} s (goal: at most {GOAL:g} s)")


if __name__ == "__main__":
    main()
