"""What another corpus changes: per seed the paired test of two runs, over seeds their mean with training's noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_runs import make_run

from mllm_eval.report import comparison, read_scored, render
from mllm_eval.report.comparison import labels
from mllm_eval.report.comparison import tested as pairwise
from mllm_eval.report.corpustable import corpus_gaps, corpus_table
from mllm_eval.report.evidence import Scored, draw_together
from mllm_eval.report.site.plots import corpus_changes
from mllm_eval.results import AVERAGE, columns, record_of

OCR = {name: 0.75 for name in columns().members("ocr_chart")}
SEEDS = (0, 1)


@pytest.fixture
def runs(results: Path) -> dict[str, list[Scored]]:
    made = {
        "none": [make_run(f"none-s{seed}", 0.4, seed=seed) for seed in SEEDS],
        "heavy": [make_run(f"heavy-s{seed}", 0.4, seed=seed, better_at=OCR) for seed in SEEDS],
    }
    return {corpus: [read_scored(record_of(run)) for run in own] for corpus, own in made.items()}


@pytest.mark.slow
def test_each_seed_is_a_paired_test_and_the_mean_is_over_both(runs: dict[str, list[Scored]]) -> None:
    gaps = corpus_gaps(runs)
    assert [(one.corpus, one.baseline, one.seed) for one in gaps] == [
        ("heavy", "none", 0), ("heavy", "none", 1), ("heavy", "none", None),
    ]  # fmt: skip
    for seed in SEEDS:
        pair = [runs["heavy"][seed], runs["none"][seed]]
        draw_together(pair)
        alone = {one.key: one.difference for one in pairwise(pair, labels(pair), None)}
        for key, one in gaps[seed].differences.items():
            assert one.value == pytest.approx(alone[key].value) and one.low == pytest.approx(alone[key].low, abs=0.2)
    for key, mean in gaps[2].differences.items():
        assert mean.value == pytest.approx(np.mean([gaps[seed].differences[key].value for seed in SEEDS]))
        assert mean.low <= mean.value <= mean.high
    assert list(gaps[0].differences) == [AVERAGE, *columns().categories]
    assert gaps[0].p["ocr_chart"] < 0.001 < gaps[0].p["general"]


@pytest.mark.slow
def test_the_table_and_the_plot_show_every_seed_and_the_mean(runs: dict[str, list[Scored]]) -> None:
    table = corpus_table(runs, corpus_gaps(runs))
    assert [(row.group, row.label) for row in table.rows] == [
        ("heavy minus none", "seed 0"), ("heavy minus none", "seed 1"), ("heavy minus none", "mean over seeds"),
    ]  # fmt: skip
    first = table.rows[0].cells["ocr_chart"]
    assert first.text.startswith("+") and first.marks == "***" and first.interval
    assert any(one.startswith("OCR & Chart: heavy is ") for one in table.sentences)
    assert "seed 1" in render(table, "md")
    (axes,) = corpus_changes(corpus_gaps(runs)).axes
    assert [line.get_label() for line in axes.lines[1:]] == ["seed 0", "seed 1", "mean over seeds"]
    assert list(axes.lines[1].get_xdata()) == [table.rows[0].cells[column.key].value for column in table.columns]
    # One run alone says the same as a comparison of the two.
    single = {corpus: own[:1] for corpus, own in runs.items()}
    alone = corpus_table(single, corpus_gaps(single))
    assert len(alone.rows) == 1 and alone.sentences == ()
    both = comparison([own[0].record for own in runs.values()], baseline="none-s0")
    assert alone.rows[0].cells[AVERAGE].value == pytest.approx(
        both.rows[1].cells[AVERAGE].value - both.rows[0].cells[AVERAGE].value  # type: ignore[operator]
    )
