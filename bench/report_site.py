"""Measure size and speed of the report at paper scale: 63,000 questions, answers of three runs, also blind.

    python bench/report_site.py --questions 63000

Questions have the lengths and variety of those of the sixteen benchmarks; answers are random. The report is written to
a temporary folder. If playwright and a Chromium are installed, the compare page is timed, too.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mllm_eval.catalog import load_encoder, load_llm, load_recipe, names, paper_benchmarks
from mllm_eval.catalog.variant import BLIND, DEFAULT, VariantKey
from mllm_eval.data import snapshots
from mllm_eval.data.samples import Sample
from mllm_eval.report.site import write_report
from mllm_eval.results import record_of
from mllm_eval.run import Run
from mllm_eval.storage import write_json, write_jsonl

TEXT = """what is the colour of number left right person near table does image show chart value largest smallest year
which following best describes text written on sign behind front bus street player country total difference between
percentage people dog cat holding wearing shirt kitchen window building answer according to graph line"""
WORDS = TEXT.split()


def samples(benchmark: str, count: int) -> list[Sample]:
    """Random questions of 6 to 18 words, three per image; a third of them have four options."""
    rng = np.random.default_rng(sum(map(ord, benchmark)))
    questions = []
    for index in range(count):
        text = " ".join(rng.choice(WORDS, rng.integers(6, 19))).capitalize() + "?"
        if index % 3 == 0:
            text += "".join(f"\n{letter}. {' '.join(rng.choice(WORDS, 2))}" for letter in "ABCD")
        prompt = f"{text}\nAnswer the question using a single word or phrase."
        place = f"{index // 3:05d}"
        questions.append(Sample(benchmark, str(index), (), prompt, str(rng.choice(WORDS)), str(index), place, {}))
    return questions


def answered(run: Run, sizes: dict[str, int], variant: VariantKey) -> None:
    """Write random answers and scores of a run under both rule sets. sizes: benchmark -> number of questions."""
    run.prepare()
    for benchmark, count in sizes.items():
        rng = np.random.default_rng([sum(map(ord, run.encoder.name + benchmark + variant.name)), run.seed])
        right, words = rng.random(count) < (0.55 if variant == DEFAULT else 0.35), rng.choice(WORDS, count)
        places = [f"{index // 3:05d}" for index in range(count)]
        for rules in ("cambrian", "robust"):
            lines: list[dict[str, Any]] = [
                {"id": str(i), "score": float(right[i]), "parsed": str(words[i]), "note": "", "group": str(i),
                 "cluster": places[i]} for i in range(count)]  # fmt: skip
            write_jsonl(run.scores_path(benchmark, rules, variant), lines)
            summary = {"benchmark": benchmark, "rules": rules, "variant": str(variant), "n": count, "n_failed": 0,
                       "n_unparsed": 0, "value": 100 * float(right.mean()), "protocol": f"{benchmark}@{rules}.v1",
                       "protocol_hash": "0", "chance": 0.0}  # fmt: skip
            write_json(run.summary_path(benchmark, rules, variant), summary)
        answers = [
            {"id": str(i), "prompt": "p", "images": [], "text": str(words[i]), "tokens_in": 640, "tokens_out": 3,
             "state": "ok", "reason": ""} for i in range(count)]  # fmt: skip
        write_jsonl(run.answers_path(benchmark, variant), answers)


def main() -> None:
    """Write a report; print its seconds, its size, and milliseconds of actions in a browser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=63_000)
    parser.add_argument("--blind", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    benchmarks = [name for name in paper_benchmarks() if name in names("benchmarks")]
    sizes = {name: given.questions // len(benchmarks) for name in benchmarks}
    with tempfile.TemporaryDirectory(prefix="mllm-eval-report-") as folder:
        os.environ["MLLM_EVAL_RESULTS"] = folder
        snapshots.load_samples = lambda benchmark, pin, variant=DEFAULT: samples(benchmark.name, sizes[benchmark.name])
        runs = []
        for name in ("mini-dino", "mini-clip", "mini-random"):
            run = Run(load_encoder(name), load_recipe("mini"), load_llm("mini-llama"), 0, {"encoder": name, "llm": "l"})
            for variant in (DEFAULT, BLIND) if given.blind else (DEFAULT,):
                answered(run, sizes, variant)
            runs.append(record_of(run))
        start = time.perf_counter()
        site = write_report(runs, Path(folder) / "report")
        also = ", also blind" if given.blind else ""
        print(f"{sum(sizes.values()):,} questions, 3 runs{also}: written in {time.perf_counter() - start:.1f} s")
        files = [path for path in site.rglob("*") if path.is_file() and "thumbs" not in path.parts]
        print(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.2f} MB without images")
        _browse(site)


def _browse(site: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        browser = None
    if browser is None:
        print("no playwright, or no Chromium: not timed in a browser")
        return
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page()
        expect.set_options(timeout=120_000)

        def timed(what: str, act: Any, text: str) -> None:
            start = time.perf_counter()
            act()
            expect(page.locator("#count")).to_contain_text(text)
            print(f"{what:<34} {1000 * (time.perf_counter() - start):8.0f} ms")

        timed("open, all questions", lambda: page.goto((site / "compare.html").as_uri()), " questions.")
        timed("A higher than B, of all", lambda: page.select_option("#show", "a"), " questions.")
        timed("one benchmark", lambda: page.select_option("#benchmark", index=3), " questions.")
        page.select_option("#show", "all")
        page.select_option("#benchmark", "")
        expect(page.locator("#count")).to_have_text(re.compile(r"^([\d,]+) of \1 questions\.$"))
        page.evaluate(
            "window.last = performance.now(); window.longest = 0;"
            "setInterval(() => { const now = performance.now();"
            " window.longest = Math.max(window.longest, now - window.last); window.last = now; }, 5)"
        )
        for what, words in (("search all texts, first time", "kitchen window"), ("and again", "bus sign")):
            before = page.locator("#count").inner_text()
            page.evaluate("window.longest = 0")
            start = time.perf_counter()
            page.fill("#search", words)
            page.wait_for_function(
                "before => { const now = document.getElementById('count').textContent;"
                " return now !== before && / questions\\.$/.test(now); }",
                arg=before, timeout=120_000,
            )  # fmt: skip
            took, blocked = time.perf_counter() - start, page.evaluate("window.longest")
            print(f"{what:<34} {1000 * took:8.0f} ms, longest without answering the user {blocked:.0f} ms")
        opened.close()


if __name__ == "__main__":
    main()
