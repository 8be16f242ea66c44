"""Runs with data, answers and scores for tests of the report: a few hundred questions, some of them hostile."""

from __future__ import annotations

import io
import json
from pathlib import Path

import made_runs
import numpy as np
from PIL import Image

from mllm_eval.catalog.variant import VariantKey
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.run import Run
from mllm_eval.storage import sha256_bytes, write_jsonl

EVIL = "<script>window.hacked=1</script><img src=x onerror='window.hacked=2'>\"'&</td>"


def picture(index: int) -> ImageRef:
    image = Image.new("RGB", (96, 64), (index * 37 % 256, index * 91 % 256, 120))
    data = io.BytesIO()
    image.save(data, "PNG")
    return ImageRef(sha256_bytes(data.getvalue()), lambda: image)


def samples(benchmark: str, count: int) -> list[Sample]:
    """The first is hostile, the second has options, all end with the same instruction."""
    found = []
    for index in range(count):
        text = f"What is in picture {index}?"
        text = f"{EVIL} {text}" if index == 0 else f"{text}\nA. cat\nB. dog" if index == 1 else text
        prompt = f"{text}\nAnswer with one word."
        image = picture(index // 2 % 40)
        group = f"g{index // 2}"
        found.append(
            Sample(benchmark, f"{index:04d}", (image,), prompt, "A", group, f"sha-{index // 2}", {"evil": EVIL})
        )
    return found


def answered(
    name: str, skill: float, benchmarks: list[str], count: int = 80, seed: int = 0, variant: str = "default"
) -> Run:
    """A run with scores by two rule sets, answers, a ledger, logs of both stages; one failed, some unparsed."""
    run = Run(made_runs.encoder(name), made_runs.recipe(), made_runs.llm(), seed, {"encoder": f"e-{name}", "llm": "l"})
    run.prepare()
    for benchmark in benchmarks:
        rng = np.random.default_rng([len(name), sum(map(ord, name + benchmark + variant))])
        ids = [f"{index:04d}" for index in range(count)]
        right = rng.random(count) < skill
        for rules in ("cambrian", "robust"):
            lines = []
            for index, one in enumerate(ids):
                score: int | None = int(right[index])
                note, parsed = "", "A" if right[index] else "B"
                if index == 5:
                    score, note, parsed = None, "failed: no prediction", None
                if index == 6 and rules == "cambrian":
                    score, note, parsed = 0, EVIL, None
                lines.append({"id": one, "score": score, "parsed": parsed, "note": note,
                              "group": f"g{index // 2}", "cluster": f"sha-{index // 2}"})  # fmt: skip
            made_runs.write_scores(run, benchmark, lines, rules, variant, n_unparsed=1)
        answers = []
        for index, one in enumerate(ids):
            text = EVIL if index == 0 else "A" if right[index] else "B\nbecause"
            state = (
                {"state": "error", "reason": EVIL, "text": ""}
                if index == 5
                else {"state": "ok", "reason": "", "text": text}
            )
            answers.append({"id": one, "prompt": "p", "images": [], "tokens_in": 60, "tokens_out": 2, **state})
        write_jsonl(run.answers_path(benchmark, VariantKey.parse(variant)), answers)
    for stage in (1, 2):
        steps = [{"step": step, "loss": 3 / (1 + step / 20) + stage} for step in range(1, 61)]
        write_jsonl(run.stage_dir(stage) / "log.jsonl", steps)
    step = {
        "step": "answers: gqa",
        "kind": "answers",
        "benchmark": "gqa",
        "variant": "default",
        "seconds": 2.0,
        "cpu_seconds": 1.5,
        "peak_mib": 100,
    }
    (run.folder / "ledger.jsonl").write_text(json.dumps(step) + "\n")
    return run


def size_without_images(site: Path) -> int:
    return sum(path.stat().st_size for path in site.rglob("*") if path.is_file() and "thumbs" not in path.parts)
