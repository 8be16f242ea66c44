"""The page of classic vision and alignment: there where something was measured, of the runs' own weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import made_probes
import made_runs
import pytest
from tiny_models import make_encoder

from mllm_eval.probes.measuring import Measurement, measure
from mllm_eval.report.site import write_report
from mllm_eval.report.site.contents import gather
from mllm_eval.report.site.vision import vision_page
from mllm_eval.results import RunRecord, read_run
from mllm_eval.results.aligned import RESULT, Aligned, Null
from mllm_eval.results.probed import Probed
from mllm_eval.storage import write_json


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "data"))


def probed(tmp_path: Path, layers: str | None = None) -> tuple[Path, Probed]:
    protocol = made_probes.protocol("in1k_knn", tmp_path / "sets")
    place = Path(str(protocol.pin("small").folder))
    job = Measurement(make_encoder(tmp_path / "encoder"), protocol, "small", place, layers)
    return job.folder, measure(job)


def aligned(tmp_path: Path, encoder: str, llm: str, weights: str, score: float, **more: Any) -> None:
    null = Null(0.012, 0.014, 0.005, 199)
    one = Aligned(encoder, llm, "platonic.v1", "mutual_knn", score, 2, 1, [[0.1, 0.05], [0.1, score]],
                  (score - 0.02, score + 0.02), null, 0.1, 4, [], 10, 20, "cls", more.get("base", ""), "mini", "same",
                  weights, [score, score, score, score - 0.01])  # fmt: skip
    write_json(tmp_path / "results/alignment" / f"{encoder}-{llm.replace(' ', '-')}" / RESULT, asdict(one))


def shown(tmp_path: Path, *records: RunRecord) -> str:
    return vision_page(gather(records, "cambrian", True), tmp_path / "site")


@pytest.mark.slow
def test_the_page_is_there_where_something_was_measured(tmp_path: Path) -> None:
    assert shown(tmp_path) == ""
    aligned(tmp_path, "one", "llm", "w", 0.2)
    site = write_report([], tmp_path / "site")
    assert "0.200 [0.180, 0.220]" in (site / "vision.html").read_text()
    assert "vision.html" in (site / "index.html").read_text()


@pytest.mark.slow
def test_probes_can_be_looked_at_before_there_is_a_run(tmp_path: Path) -> None:
    probed(tmp_path)
    probed(tmp_path, "all")
    text = shown(tmp_path)
    assert "block 1" in text and "serves it best" in text
    assert "figure-sweep" in text and (tmp_path / "site/figures/sweep.pdf").is_file()
    assert "Alignment" not in text


@pytest.mark.slow
def test_heat_maps_and_tests_of_alignment_are_shown(tmp_path: Path) -> None:
    for encoder, score in (("one", 0.2), ("<b>two", 0.3)):
        aligned(tmp_path, encoder, "llm", "w", score)
        aligned(tmp_path, encoder, "llm after r", "w", score - 0.05, base="llm")
    text = shown(tmp_path)
    assert "figure-alignment-layers" in text and "0.300 [0.280, 0.320]" in text
    assert "nearer to llm" in text or "not told apart" in text
    assert "<b>two" not in text and "&lt;b&gt;two" in text
    # All sizes are alike: there is no curve.
    assert "figure-alignment-size" not in text


@pytest.mark.slow
def test_what_was_measured_of_other_weights_than_the_runs_is_left_out(tmp_path: Path) -> None:
    run = made_runs.make_run("mini-dino", benchmarks=["gqa"])
    folder, found = probed(tmp_path)
    record = read_run(run.folder)
    mine = found.model_copy(update={"encoder": "mini-dino", "weights": run.weights["encoder"]})
    write_json(folder / "result.json", mine.model_copy(update={"weights": "older"}).model_dump(mode="json"))
    aligned(tmp_path, "mini-dino", "llm", "older", 0.2)
    assert shown(tmp_path, record) == ""
    write_json(folder / "result.json", mine.model_dump(mode="json"))
    aligned(tmp_path, "mini-dino", "llm", run.weights["encoder"], 0.2)
    text = shown(tmp_path, record)
    assert "ImageNet-1k, k nearest" in text and "0.200 [0.180, 0.220]" in text
