"""What a table shows on request: visual gain, what is behind a cell, a benchmark's variants side by side."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_run, write_scores
from scipy.stats import norm as normal
from scipy.stats import t as student

from mllm_eval.catalog.variant import BLIND, DEFAULT
from mllm_eval.errors import UserError
from mllm_eval.report import FORMATS, comparison, render
from mllm_eval.report.details import details_table
from mllm_eval.report.evidence import read_scored
from mllm_eval.report.gain import gains, with_gains
from mllm_eval.report.table import MISSING
from mllm_eval.report.variants import variants_table
from mllm_eval.results import read_run
from mllm_eval.run import Run

SOME = ["mme", "mmvp", "chartqa"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))


def seeing_and_blind(name: str = "mini-dino") -> Run:
    run = make_run(name, 0.8, benchmarks=SOME)
    make_run(name, 0.4, benchmarks=SOME, variant="blind")
    return run


@pytest.mark.slow
def test_the_gain_is_score_minus_blind_with_a_paired_interval() -> None:
    run = seeing_and_blind()
    seeing, blind = read_scored(read_run(run.folder)), read_scored(read_run(run.folder), variant=BLIND)
    found = gains(seeing, blind)
    assert set(found) == set(SOME)
    for name in SOME:
        one = found[name]
        assert one.value == pytest.approx(seeing.values[name] - blind.values[name])
        assert one.low < one.value < one.high
    # The draws are paired: by hand, from the clusters' own sums under the same weights.
    gaps = seeing.own_draws["chartqa"] - blind.own_draws["chartqa"]
    one, images = found["chartqa"], 40
    wider = student.ppf(0.975, images - 1) / normal.ppf(0.975)
    assert one.low == pytest.approx(one.value - wider * (one.value - np.percentile(gaps, 2.5)))


@pytest.mark.slow
def test_gains_stand_below_their_rows_in_every_format() -> None:
    run, other = seeing_and_blind(), make_run("mini-clip", 0.6, benchmarks=SOME)
    records = [read_run(one.folder) for one in (run, other)]
    table = with_gains(comparison(records, variants=(DEFAULT,)), {record.hash: record for record in records})
    assert [row.label for row in table.rows] == ["mini-dino", "mini-dino: visual gain", "mini-clip"]
    gain = table.rows[1]
    assert gain.aside and gain.cells["chartqa"].text.startswith("+") and "avg" not in gain.cells
    assert any("without blind answers: mini-clip" in note for note in table.notes)
    for form in FORMATS:
        assert "visual gain" in render(table, form)
    line = list(csv.DictReader(io.StringIO(render(table, "csv"))))[1]
    assert line["variant"] == "gain" and float(line["chartqa_low"]) < float(line["chartqa"]) < float(
        line["chartqa_high"]
    )


@pytest.mark.slow
def test_behind_each_cell_stand_its_counts_its_chance_and_its_protocol() -> None:
    run = seeing_and_blind()
    lines = [{"id": str(i), "group": str(i), "cluster": str(i), "score": s} for i, s in enumerate([1, 0, None])]
    write_scores(run, "chartqa", lines, n_unparsed=1, chance=12.5, protocol_hash="feedbeef0123")
    table = details_table([read_run(run.folder)], variants=(DEFAULT, BLIND))
    rows = {(row.group, row.label): {key: cell.text for key, cell in row.cells.items()} for row in table.rows}
    assert rows["mini-dino", "ChartQA"] == {
        "value": "50.00", "n": "3", "n_failed": "1", "n_unparsed": "1", "chance": "12.50",
        "most_frequent_answer": "A 100%",
        "protocol": "chartqa@cambrian.v1", "protocol_hash": "feedbeef0123",
    }  # fmt: skip
    assert ("mini-dino (blind)", "MMVP") in rows and len(rows) == 6
    for form in FORMATS:
        assert "feedbeef0123" in render(table, form)
    write_scores(run, "chartqa", lines, n_empty=2)
    table = details_table([read_run(run.folder)])
    cells = {row.label: row.cells["n_empty"].text for row in table.rows}
    assert cells == {**dict.fromkeys(cells, MISSING), "ChartQA": "2"} and len(cells) == 3
    assert any("2 of them empty" in note for row in comparison([read_run(run.folder)]).rows for note in row.notes)
    assert next(csv.DictReader(io.StringIO(render(comparison([read_run(run.folder)]), "csv"))))["n_empty"] == "2"
    with pytest.raises(UserError, match="nothing scored by 'robust' rules"):
        details_table([read_run(run.folder)], "robust")


@pytest.mark.slow
def test_variants_stand_side_by_side() -> None:
    run, other = make_run("mini-dino", 0.8, benchmarks=SOME), make_run("mini-clip", 0.6, benchmarks=["chartqa"])
    make_run("mini-dino", 0.9, benchmarks=["mmvp"], variant="single")
    make_run("mini-dino", 0.3, benchmarks=["mmvp"], variant="blind")
    table = variants_table([read_run(run.folder), read_run(other.folder)], "mmvp")
    assert [column.key for column in table.columns] == ["default", "single", "blind"]
    (row,) = table.rows
    assert row.cells["blind"].value == read_scored(read_run(run.folder), variant=BLIND).values["mmvp"]
    assert any("Not asked: corrected_labels" in note for note in table.notes)
    with pytest.raises(UserError, match="no run was scored on mmvp"):
        variants_table([read_run(other.folder)], "mmvp")
    with pytest.raises(UserError, match="mmvp"):
        variants_table([read_run(run.folder)], "mmpv")
