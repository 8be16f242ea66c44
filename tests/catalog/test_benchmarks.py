"""The sixteen folders: their facts, their scorers as `evaluate` metrics, and a user's own benchmark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import parquet_rows
import pytest
from places import GOLDEN, ROOT

from mllm_eval import metrics
from mllm_eval.catalog import load_benchmark, names, paper_benchmarks
from mllm_eval.catalog.benchmark import folder_of, read_benchmark
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.data.snapshots import load_samples
from mllm_eval.errors import UserError
from mllm_eval.score import load_scorer, protocol, protocol_hash, score_samples, summarize

SIXTEEN = paper_benchmarks()


def test_the_papers_sixteen_are_there_in_its_order() -> None:
    assert names("benchmarks")[:16] == SIXTEEN and len(SIXTEEN) == 16
    counts = [load_benchmark(name).category for name in SIXTEEN]
    assert [counts.count(c) for c in ("general", "knowledge", "ocr_chart", "vision_centric")] == [4, 4, 4, 4]


@pytest.mark.parametrize("name", SIXTEEN)
def test_facts_of_the_yaml(name: str) -> None:
    benchmark = load_benchmark(name)
    assert {"hub", "mini"} <= set(benchmark.data)
    for key, pin in benchmark.data.items():
        assert benchmark.columns.keys() <= pin.columns.keys()
        assert pin.source == ("hub" if key.startswith("hub") else "local")
    # The miniature has the upstream data set's name, so that one loader reads both.
    assert benchmark.data["mini"].repo.split("/")[1] == benchmark.data["hub"].repo.split("/")[1]
    assert benchmark.data["mini"].split == benchmark.data["hub"].split
    for variant in benchmark.variants.values():
        assert set(variant.pins.values()) <= set(benchmark.data)


@pytest.mark.parametrize("name", SIXTEEN)
def test_scorers_are_short(name: str) -> None:
    assert len((folder_of(load_benchmark(name)) / f"{name}.py").read_text().splitlines()) < 80


def test_a_protocol_is_named_and_hashed_with_its_variant_and_source(tmp_path: Path) -> None:
    benchmark = load_benchmark("textvqa")
    assert protocol(benchmark, "cambrian") == "textvqa@cambrian.v2"
    hashes = {protocol_hash(benchmark, "cambrian", v) for v in (DEFAULT, VariantKey("no_ocr_tokens"))}
    hashes.add(protocol_hash(benchmark, "robust"))
    folder = tmp_path / "textvqa"
    shutil.copytree(folder_of(benchmark), folder)
    copy = read_benchmark(folder / "benchmark.yaml")
    assert protocol_hash(copy, "cambrian") == protocol_hash(benchmark, "cambrian") in hashes
    (folder / "textvqa.py").write_text((folder / "textvqa.py").read_text() + "# changed\n")
    hashes.add(protocol_hash(copy, "cambrian"))
    assert len(hashes) == 4 and all(re.fullmatch(r"[0-9a-f]{12}", found) for found in hashes)


def test_a_protocols_hash_knows_the_shared_code_that_its_scorer_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = {name: load_benchmark(name) for name in ("chartqa", "gqa")}
    before = {name: protocol_hash(benchmark, "robust") for name, benchmark in scored.items()}
    for file in Path(metrics.__file__).parent.glob("*.py"):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(metrics, "__path__", [str(tmp_path)])
    assert {name: protocol_hash(benchmark, "robust") for name, benchmark in scored.items()} == before
    for changed, others in (("quantities", {"chartqa"}), ("numerals", {"chartqa", "gqa"}), ("letters", set())):
        text = (tmp_path / f"{changed}.py").read_text()
        (tmp_path / f"{changed}.py").write_text(f"{text}# changed\n")
        now = {name for name, benchmark in scored.items() if protocol_hash(benchmark, "robust") != before[name]}
        assert now == others, changed
        (tmp_path / f"{changed}.py").write_text(text)


def test_guessing_is_counted_from_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path))
    wanted = {"mme": 75.0, "mmbench_en": 25.0, "mmvp": 25.0, "scienceqa": 50.0, "ai2d": 25.0, "chartqa": 0.0}
    for name, chance in wanted.items():
        benchmark = parquet_rows.unpinned(name)
        parquet_rows.write_mini(tmp_path, benchmark, parquet_rows.rows_of(name))
        samples = load_samples(benchmark, "mini")
        scores = score_samples(benchmark, "cambrian", samples, {sample.id: "A" for sample in samples})
        assert summarize(benchmark, "cambrian", samples, scores).chance == pytest.approx(chance), name
    assert summarize(load_benchmark("mmvp"), "cambrian", [], [], VariantKey("single")).value is None


METRIC = """
import json, os, sys
# As where they are not installed.
from importlib.machinery import PathFinder
found = PathFinder.find_spec
without = ("torch", "transformers")
PathFinder.find_spec = staticmethod(
    lambda name, *more: None if name.split(".")[0] in without else found(name, *more)
)
import evaluate
before = set(sys.modules)
for name in sys.argv[2:]:
    lines = [json.loads(line) for line in open(f"{sys.argv[1]}/tests/golden/{name}.jsonl")]
    lines = [line for line in lines if not line["cambrian_error"]]
    metric = evaluate.load(f"{sys.argv[1]}/benchmarks/{name}")
    said = metric.compute(
        predictions=[line["prediction"] for line in lines], references=[line["record"] for line in lines]
    )
    assert [round(s, 6) for s in said["scores"]] == [round(line["cambrian"], 6) for line in lines], name
    robust = metric.compute(
        predictions=[lines[0]["prediction"]], references=[lines[0]["record"]], rules="robust"
    )
    assert len(robust["scores"]) == 1
names = {name.partition(".")[0] for name in set(sys.modules) - before}
assert not names & {"scipy", "typer", "pydantic", "yaml"}, names
print("loaded", len(sys.argv) - 2)
"""


@pytest.mark.slow
def test_scorers_load_as_evaluate_metrics_by_python_alone(tmp_path: Path) -> None:
    pytest.importorskip("evaluate")
    offline = {"HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    scored = ["mme", "mathvista", "textvqa", "mmvp", "cvbench_3d"]  # each kind of reference, and shared modules
    done = subprocess.run(
        [sys.executable, "-c", METRIC, str(ROOT), *scored],
        capture_output=True, text=True, cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **offline},
    )  # fmt: skip
    assert done.stdout.strip().endswith("loaded 5"), done.stderr[-2000:]


@pytest.mark.slow
def test_calling_a_scorer_makes_no_metric_and_imports_nothing() -> None:
    code = (
        "import sys; from mllm_eval.catalog import load_benchmark; from mllm_eval.score import load_scorer;"
        "[load_scorer(load_benchmark(n)) for n in sys.argv[1:]];"
        "print([m for m in ('evaluate', 'datasets', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *SIXTEEN], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


OWN = """
name: shapes
title: Shapes
category: vision_centric
chance: 0
data:
  mini: {repo: me/shapes, split: test}
columns: {question: string, answer: string, image: image}
reader: mllm_eval.data.readers:question
settings: {suffix: Answer in one word.}
generation: {max_new_tokens: 8}
rules:
  exact: {version: 3}
"""
OWN_SCORER = """
from .near import same

NEEDS = {"answer": "string"}
RULES = {"exact": lambda record, said: (float(same(record["answer"], said)), said or None, "")}


def report(rules, rows):
    return {"accuracy": 100 * sum(score for _, score in rows) / len(rows)}
"""


def test_one_folder_adds_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "benchmarks" / "shapes"
    folder.mkdir(parents=True)
    (folder / "benchmark.yaml").write_text(OWN)
    (folder / "shapes.py").write_text(OWN_SCORER)
    (folder / "near.py").write_text("def same(one, two):\n    return one.lower() == two.lower()\n")
    monkeypatch.setenv("MLLM_EVAL_PATH", str(tmp_path))
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path))
    benchmark = load_benchmark("shapes")
    rows = [{"question": "Which?", "answer": "circle", "image": parquet_rows.png(i)} for i in range(2)]
    parquet_rows.write_parquet(tmp_path, benchmark.data["mini"], rows)
    samples = load_samples(benchmark, "mini")
    assert samples[0].prompt == "Which?\nAnswer in one word."
    scores = score_samples(benchmark, "exact", samples, {"0": "Circle", "1": "square"})
    summary = summarize(benchmark, "exact", samples, scores)
    assert (summary.value, summary.protocol) == (50.0, "shapes@exact.v3")
    (folder / "shapes.py").write_text("NEEDS = {}\n")
    with pytest.raises(UserError, match=r"shapes\.py has no RULES"):
        load_scorer(read_benchmark_fresh(tmp_path, folder))


def read_benchmark_fresh(tmp_path: Path, folder: Path) -> object:
    other = tmp_path / "elsewhere" / "shapes"
    shutil.copytree(folder, other)
    return read_benchmark(other / "benchmark.yaml")


def test_golden_lines_are_unique() -> None:
    for name in SIXTEEN:
        lines = (GOLDEN / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        ids = [json.loads(line)["id"] for line in lines]
        assert len(ids) == len(set(ids))
