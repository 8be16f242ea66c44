"""A comparison in Python: what it shows comes from scores that are read once."""

from __future__ import annotations

from pathlib import Path

import made_runs
import opened
import pytest

import mllm_eval

NAMES = ["mme", "gqa", "chartqa"]


@pytest.mark.slow
def test_all_that_a_comparison_shows_is_read_once(results: Path) -> None:
    runs = [
        made_runs.make_run(name, skill, benchmarks=NAMES) for name, skill in (("mini-dino", 0.8), ("mini-clip", 0.3))
    ]
    with opened.opened() as counts:
        compared = mllm_eval.compare(runs)
        plain, differences = compared.table(), compared.differences
        shown, table = compared._repr_html_(), compared.table(intervals=True)
        said = compared.sentences
    assert len(opened.score_lines(counts)) == len(opened.summaries(counts)) == len(runs) * len(NAMES)
    assert set(opened.score_lines(counts).values()) == set(opened.summaries(counts).values()) == {1}
    # A comparison of its own gives the same, each in any order.
    again = mllm_eval.compare(runs)
    assert again.sentences == said and again.table(intervals=True) == table and again.table() == plain
    assert again.differences.equals(differences) and again._repr_html_() == shown
    assert all(one.startswith("mini-dino beats mini-clip") for one in said) and said
