"""k nearest neighbours of fewer training images than k, and what an older version of this code left half done."""

from __future__ import annotations

from pathlib import Path

import made_probes
import pytest
import torch
from tiny_models import make_encoder

from mllm_eval.errors import UserError
from mllm_eval.probes.grid import Descent, Heads, Input
from mllm_eval.probes.measuring import Measurement, measure


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path / "data"))


def asked(tmp_path: Path, neighbours: list[int]) -> Measurement:
    protocol = made_probes.protocol("in1k_knn", tmp_path).model_copy(update={"neighbours": neighbours})
    place = Path(str(protocol.pin("small").folder))
    return Measurement(make_encoder(tmp_path / "encoder"), protocol, "small", place, None)


@pytest.mark.slow
def test_a_k_above_the_number_of_images_is_left_out_and_named(tmp_path: Path) -> None:
    # Of 24 training images a quarter is held out: 18 answer.
    found = measure(asked(tmp_path, [1, 18, 19, 200]))
    assert set(found.readings[0].further) == {"k=1", "k=18"}
    assert found.selection.startswith("best k of 1, 18; 19, 200 left out, since 18 training images answer; k chosen")
    assert found.readings[0].value == measure(asked(tmp_path, [1, 18])).readings[0].value


def test_where_no_k_is_left_nothing_is_measured(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="18 training images have no 20 neighbours; lower `neighbours`"):
        measure(asked(tmp_path, [20, 200]))


def test_heads_of_another_form_are_not_gone_on_with() -> None:
    made = Heads([Input((1,), True)], [0.1, 0.3], 3, (1,), 5, Descent(0.01, 0.9, 1))
    before = {name: one.clone() for name, one in made.state().items()}
    older = {name.replace("move", "pace"): one + 1 for name, one in before.items()}
    turned = {name: (one + 1).T for name, one in before.items()}
    assert not made.restore(older) and not made.restore(turned) and not made.restore({})
    assert all(torch.equal(one, before[name]) for name, one in made.state().items())
    assert made.restore({name: one + 1 for name, one in before.items()})
    assert all(torch.equal(one, before[name] + 1) for name, one in made.state().items())
