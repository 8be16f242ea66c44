"""The training bench compares the same thing: equal losses and gradients in LLaVA's class and in this project's."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mllm_eval.cli.benching import folder
from mllm_eval.features import Features
from mllm_eval.train.batches import Collator, RowShape


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.syspath_prepend(folder())
    return importlib.import_module("training")


@pytest.fixture
def drawn(bench: Any) -> Any:
    return importlib.import_module("drawn")


@pytest.fixture(params=["tiny", "tiny-desk"])
def run(bench: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    return bench.make_run(tmp_path, bench.SHAPES[request.param], 4, 3, {1: 12, 2: 12})


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2])
def test_losses_and_gradients_are_those_of_llava(stage: int, bench: Any, drawn: Any, run: Any) -> None:
    data, features = bench.tokenised(run, stage), Features.of(run)
    features.fill(data.refs(np.arange(len(data.images))))
    model = bench.new_model(run, stage)
    plain = bench.as_plain(model, stage)
    facts = RowShape(model.config.image_token_id, run.recipe.tokens, model.tokenizer.pad_token_id, drawn.LONGEST)
    own = Collator(data, features.store, facts)
    usual = bench.PlainCollator(own, run.encoder.preprocessing)
    rows = [5, 0, 7, 2]
    theirs = plain(**usual(rows)).loss
    theirs.backward()
    live = Collator(data, run.encoder.preprocessing, facts)
    for batch in (own(rows), live(rows)):
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        torch.testing.assert_close(loss, theirs, rtol=1e-5, atol=1e-5)
        projector = plain.model.multi_modal_projector
        pairs = [(model.projector.layers[0], projector.linear_1), (model.projector.layers[2], projector.linear_2)]
        if stage == 2:
            llama = plain.model.language_model
            pairs += [(model.llm.model.layers[-1].mlp.up_proj, llama.layers[-1].mlp.up_proj)]
            pairs += [(model.llm.model.layers[0].self_attn.q_proj, llama.layers[0].self_attn.q_proj)]
        for ours, reference in pairs:
            torch.testing.assert_close(ours.weight.grad, reference.weight.grad, rtol=1e-3, atol=1e-5)
        assert stage == 2 or all(weight.grad is None for weight in model.llm.parameters())


@pytest.mark.slow
def test_each_way_is_timed_on_rows_of_the_same_kind(bench: Any, run: Any, tmp_path: Path) -> None:
    rows = list(bench.compare(run, 2, Features.of(run), tmp_path))
    ways = ["plain", "features stored, whole last layer", "features stored", "features stored, cold"]
    assert [row["way"] for row in rows] == ways
    assert rows[1]["loss"] == rows[2]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-4)
    assert all(row["tokens_per_cpu_second"] > 0 for row in rows)


def test_lengths_by_order_leave_hardly_any_padding(bench: Any, drawn: Any) -> None:
    lengths = drawn.drawn_lengths(2, 2000)
    assert lengths.max() <= drawn.LONGEST and len(np.unique(lengths)) > 100
    plans = {order: drawn.BatchPlan(lengths, 16, 125, (0, 2), order) for order in ("length", "random")}
    assert drawn.stats_padding(plans["length"], 16) < 0.05 < drawn.stats_padding(plans["random"], 16)
