"""Neighbours where similarities are equal, and the timing of alignment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mllm_eval.alignment.metrics import nearest
from mllm_eval.cli.benching import run_timings
from mllm_eval.errors import UserError


@pytest.mark.parametrize("kinds", [1, 4, 200])
def test_of_equal_neighbours_the_lower_number_comes_first(kinds: int) -> None:
    draws = torch.Generator().manual_seed(kinds)
    # Directions along axes: cosines are 0 or 1 exactly, and so mostly equal.
    features = torch.eye(200)[torch.randint(0, kinds, (3, 60), generator=draws)]
    for count in (2, 10, 59):
        for layer, found in zip(features, nearest(features, count), strict=True):
            similar = (layer @ layer.T).fill_diagonal_(-torch.inf)
            wanted = [sorted(range(60), key=lambda at, row=row: (-row[at], at))[:count] for row in similar.tolist()]
            assert found.tolist() == wanted


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_no_number_have_no_neighbours(value: float) -> None:
    features = torch.randn(2, 20, 4, generator=torch.Generator().manual_seed(0))
    features[1, 3, 2] = value
    with pytest.raises(UserError, match=r"layer 1 .* not finite"):
        nearest(features, 5)


@pytest.mark.slow
def test_all_pairs_at_once_have_the_values_of_the_plain_loop(tmp_path: Path) -> None:
    out = tmp_path / "align.json"
    assert run_timings(["align"], ["--quick", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert {(row["metric"], row["plain_way"]) for row in rows} == {
        ("mutual_knn", "sorted"),
        ("mutual_knn", "top-k"),
        ("cka", "definition"),
        ("unbiased_cka", "definition"),
    }
    assert all(row["largest_gap"] < 1e-6 and row["plain_s"] > 0 < row["together_s"] for row in rows)
