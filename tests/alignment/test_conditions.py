"""Alignment of what has no score: too few pairs, features that are not finite or do not differ, failed pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from made_pairs import good, own_protocol, scenes, written
from safetensors.torch import load_file

from mllm_eval.alignment import measure, representations
from mllm_eval.alignment.measure import align
from mllm_eval.alignment.metrics import METRICS, OVER_NEIGHBOURS
from mllm_eval.alignment.protocol import Alignment
from mllm_eval.alignment.representations import Language, Representations
from mllm_eval.errors import UserError
from mllm_eval.results.aligned import RESULT, Null, read_aligned
from mllm_eval.storage import write_summed

# The fewest pairs that a metric takes, with two neighbours where it has any.
FEWEST = {"mutual_knn": 4, "cycle_knn": 4, "lcs_knn": 4, "cka": 3, "unbiased_cka": 4, "cknna": 4}


class Models:
    """Takes the place of encoder and LLM: random features, of two blocks and of three layers."""

    def __init__(self) -> None:
        self.encoded = 0
        self.seen = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(1))
        self.said = torch.randn(3, 40, 6, generator=torch.Generator().manual_seed(2))

    def of_pictures(self, encoder: Any, pairs: Any, progress: Any = None) -> Representations:
        self.encoded += 1
        return Representations(self.seen[:, : len(pairs)], {})

    def of_captions(self, language: Any, texts: Any, progress: Any = None) -> torch.Tensor:
        self.encoded += 1
        return self.said[:, : len(texts)]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Models:
    # Deterministic algorithms import torch's compiler, for seconds, once a process: here, so that no test is charged.
    import torch._inductor.config

    made = Models()
    monkeypatch.setattr(measure, "of_pictures", made.of_pictures)
    monkeypatch.setattr(measure, "of_captions", made.of_captions)
    monkeypatch.setattr(measure, "load_language", lambda name: Language(name, torch.nn.Linear(1, 1), None, "what", 2))
    monkeypatch.setattr(torch.nn.Linear, "dtype", torch.float32, raising=False)
    return made


def protocol(folder: Path, count: int, metric: Any = "mutual_knn") -> Alignment:
    return own_protocol(written(folder, good(count))).model_copy(update={"metric": metric})


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_too_few_pairs_are_refused_before_anything_is_encoded(metric: Any, tmp_path: Path, models: Models) -> None:
    with pytest.raises(UserError, match=f"{FEWEST[metric] - 1} pairs are too few for {metric}.* bring more"):
        align("mini-dino", "llm", protocol(tmp_path / "p", FEWEST[metric] - 1, metric), "own")
    assert not models.encoded


@pytest.mark.parametrize("metric", sorted({*METRICS} - {"cknna"}))
def test_the_fewest_pairs_have_a_score(metric: Any, tmp_path: Path, home: Path, models: Models) -> None:
    found = align("mini-dino", "llm", protocol(tmp_path / "p", FEWEST[metric], metric), "own")
    assert 0 <= abs(found.score) <= 1.5
    (stored,) = home.glob(f"alignment/*/{RESULT}")
    assert read_aligned(stored).score == found.score


def test_chance_of_one_leaves_nothing_to_calibrate() -> None:
    assert Null(1.0, 1.0, 1.0, 19).calibrated(1.0) is None
    assert Null(0.5, 1.0, 1.0, 19).calibrated(1.0) == 1.0


def test_no_pair_at_all_is_one_line(tmp_path: Path, models: Models) -> None:
    path = Path(written(tmp_path / "p", good(3)))
    file = tmp_path / "p" / "pairs.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    with pytest.raises(UserError, match="0 pairs are too few"):
        align("mini-dino", "llm", own_protocol(str(path)), "own")
    empty = [{**row, "text": []} for row in good(3)]
    with pytest.raises(UserError, match=r"3 of 3 pairs cannot be read.*parquet:1: text is empty"):
        align("mini-dino", "llm", own_protocol(written(tmp_path / "q", empty)), "own")
    assert not models.encoded


@pytest.mark.parametrize("metric", ["cka", "unbiased_cka"])
@pytest.mark.parametrize("side", ["seen", "said"])
def test_a_layer_that_tells_no_pair_apart_has_no_score(
    metric: Any, side: str, tmp_path: Path, home: Path, models: Models
) -> None:
    # Not of length one, so that rounding is part of its cosines.
    getattr(models, side)[1] = torch.randn(getattr(models, side).shape[2], generator=torch.Generator().manual_seed(3))
    with pytest.raises(UserError, match=f"{metric} has no value for block .* do not differ"):
        align("mini-dino", "llm", protocol(tmp_path / "p", 20, metric), "own")
    assert not [*home.glob(f"alignment/*/{RESULT}")]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize(("side", "named"), [("seen", "block 2 of mini-dino"), ("said", "layer 1 of llm")])
def test_features_that_are_not_finite_are_named_and_not_kept(
    side: str, named: str, value: float, tmp_path: Path, home: Path, models: Models
) -> None:
    whole = getattr(models, side)[1, 3:5].clone()
    getattr(models, side)[1, 3:5] = value
    asked = protocol(tmp_path / "p", 20)
    with pytest.raises(UserError, match=rf"^{named}: .* not finite for 2 of 20 pairs.*pairs\.parquet:4;.*float32"):
        align("mini-dino", "llm", asked, "own")
    # What was whole is kept, and the rest is encoded again.
    assert len([*home.glob("alignment/features/*.safetensors")]) == (side == "said")
    getattr(models, side)[1, 3:5] = whole
    assert align("mini-dino", "llm", asked, "own", 0).pairs == 20


def test_kept_features_are_held_to_the_same(tmp_path: Path, home: Path, models: Models) -> None:
    from safetensors.torch import save

    asked = protocol(tmp_path / "p", 20)
    align("mini-dino", "llm", asked, "own", 0)
    for path in home.glob("alignment/features/*.safetensors"):
        features = load_file(path)["features"]
        features[:, 0] = torch.nan
        write_summed(path, save({"features": features}))
    with pytest.raises(UserError, match=r"block 1 of mini-dino: its features are not finite .*\(layers: 2\)"):
        align("mini-dino", "llm", asked, "own", 0)


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_metrics_on_neighbours_have_chance_and_an_interval(metric: Any, tmp_path: Path, models: Models) -> None:
    models.said[1, :, :6] += models.seen[1, :, :6]
    found = align("mini-dino", "llm", protocol(tmp_path / "p", 40, metric), "own")
    own = metric in OVER_NEIGHBOURS
    assert [found.interval is None, found.null is None, found.by_picture is None, found.calibrated is None] == [
        not own
    ] * 4
    if found.null and found.interval and found.by_picture:
        assert found.null.permutations == 999 and found.null.p < 0.05 and found.null.mean < found.score
        assert found.interval[0] < found.score < found.interval[1]
        assert sum(found.by_picture) / 40 == pytest.approx(found.score, abs=1e-5)


@pytest.mark.parametrize("metric", sorted({*METRICS} - {*OVER_NEIGHBOURS}))
def test_shuffles_of_a_metric_without_chance_are_refused(metric: Any, tmp_path: Path, models: Models) -> None:
    asked = protocol(tmp_path / "p", 20, metric)
    with pytest.raises(UserError, match=f"{metric} has no null distribution .*mutual_knn, cycle_knn, lcs_knn"):
        align("mini-dino", "llm", asked, "own", 99)
    with pytest.raises(UserError, match="-1 is negative"):
        align("mini-dino", "llm", asked, "own", -1)
    assert not models.encoded
    assert align("mini-dino", "llm", asked, "own", 0).null is None


@pytest.mark.slow
def test_a_picture_that_fails_is_left_out_and_no_picture_is_encoded_twice(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load = representations.load_encoder_model
    monkeypatch.setattr(representations, "load_encoder_model", lambda facts: loaded.append(facts.name) or load(facts))
    scenes(tmp_path / "p", 100)
    file = tmp_path / "p" / "pairs.parquet"
    rows = pq.read_table(file).to_pylist()
    without = align("mini-dino", "mini-llama", own_protocol(written(tmp_path / "q", rows[:41] + rows[42:])), "own", 19)
    rows[41]["image"] = {"bytes": b"no picture", "path": None}
    own = own_protocol(written(tmp_path / "p", rows))
    del loaded[:]
    found = [align("mini-dino", "mini-llama", own.model_copy(update={"metric": one}), "own") for one in sorted(METRICS)]
    assert loaded == ["mini-dino"]
    assert {one.pairs for one in found} == {99} and {tuple(one.failed) for one in found} == {tuple(found[0].failed)}
    (reason,) = found[0].failed
    assert reason.startswith(f"{file}:42: ") and reason.count(str(file)) == 1
    (same,) = [one for one in found if one.metric == "mutual_knn"]
    # Other batches round otherwise, which may exchange a neighbour.
    torch.testing.assert_close(torch.tensor(same.scores), torch.tensor(without.scores), atol=0.02, rtol=0)
    assert same.null and same.score > same.null.high and len({one.pictures for one in found}) == 1
    # The same files elsewhere: what is kept is found, and the reason names the new place.
    (again,) = align("mini-dino", "mini-llama", own_protocol(written(tmp_path / "r", rows)), "own", 0).failed
    assert loaded == ["mini-dino"] and again == reason.replace(str(file), str(tmp_path / "r" / "pairs.parquet"))
