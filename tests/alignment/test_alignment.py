"""Alignment: the metrics from their definitions, chance, pairs that cannot be read, and the miniature end to end."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from local_hub import served
from made_pairs import good, own_protocol, scenes, written
from typer.testing import CliRunner

from mllm_eval.alignment import metrics
from mllm_eval.alignment.chance import interval_over_pictures, null_of_maximum
from mllm_eval.alignment.pairs import load_pairs
from mllm_eval.alignment.protocol import load_alignment
from mllm_eval.cli.app import app
from mllm_eval.errors import UserError
from mllm_eval.results.aligned import Null

COUNT = 10


def drawn(layers: int, samples: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(layers, samples, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def both() -> tuple[torch.Tensor, torch.Tensor]:
    x = drawn(3, 60, 8, 1)
    # Layers of y are about those of x, more and more so.
    y = torch.cat([x, drawn(3, 60, 5, 2)], -1)[[0, 2]] + 0.5 * drawn(2, 60, 13, 3)
    return x, y


def neighbours_by_hand(features: torch.Tensor, count: int) -> list[list[int]]:
    vectors = features.double().numpy()
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    return [list(np.argsort(-row, kind="stable")[:count]) for row in similar]


def longest_common(a: list[int], b: list[int]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, one in enumerate(a):
        for j, other in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def by_hand(name: str, x: torch.Tensor, y: torch.Tensor) -> float:
    a, b = neighbours_by_hand(x, COUNT), neighbours_by_hand(y, COUNT)
    if name == "mutual_knn":
        return float(np.mean([len(set(one) & set(other)) / COUNT for one, other in zip(a, b, strict=True)]))
    if name == "cycle_knn":
        return float(np.mean([any(own in a[other] for other in b[own]) for own in range(len(a))]))
    if name == "lcs_knn":
        return float(np.mean([longest_common(one, other) / COUNT for one, other in zip(a, b, strict=True)]))
    k, l_ = (gram(one) for one in (x, y))
    if name == "cka":
        return biased(k, l_) / np.sqrt(biased(k, k) * biased(l_, l_))
    if name == "unbiased_cka":
        return unbiased(k, l_) / np.sqrt(unbiased(k, k) * unbiased(l_, l_))
    mark_k, mark_l = (marks(one) for one in (a, b))
    own = np.sqrt(unbiased(k * mark_k, k * mark_k) * unbiased(l_ * mark_l, l_ * mark_l))
    return unbiased(k * mark_k * mark_l, l_ * mark_k * mark_l) / (own + 1e-6)


def gram(features: torch.Tensor) -> Any:
    vectors = features.double().numpy()
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


def biased(k: Any, l_: Any) -> float:
    centre = np.eye(len(k)) - 1 / len(k)
    return float(np.trace(k @ centre @ l_ @ centre))


def unbiased(k: Any, l_: Any) -> float:
    m, one = len(k), np.ones(len(k))
    k, l_ = k - np.diag(np.diag(k)), l_ - np.diag(np.diag(l_))
    middle = (one @ k @ one) * (one @ l_ @ one) / ((m - 1) * (m - 2))
    return float((np.trace(k @ l_) + middle - 2 / (m - 2) * (one @ k @ l_ @ one)) / (m * (m - 3)))


def marks(neighbours: list[list[int]]) -> Any:
    found = np.zeros((len(neighbours), len(neighbours)))
    for at, row in enumerate(neighbours):
        found[at, row] = 1
    return found


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_every_pair_of_layers_has_the_value_of_the_definition(name: Any, both: Any) -> None:
    x, y = both
    found = metrics.METRICS[name](x, y, COUNT)
    wanted = [[by_hand(name, a, b) for b in y] for a in x]
    assert np.ptp(wanted) > 0.02
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_features_are_aligned_with_themselves(name: Any, both: Any) -> None:
    x, _ = both
    assert metrics.METRICS[name](x[:1], x[:1], COUNT).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["cka", "unbiased_cka", "mutual_knn"])
def test_a_rotation_changes_nothing(name: Any, both: Any) -> None:
    x, y = both
    rotation, _ = torch.linalg.qr(drawn(1, 13, 13, 9)[0])
    once, again = (metrics.METRICS[name](x, one, COUNT) for one in (y, y @ rotation))
    torch.testing.assert_close(once, again, atol=1e-5, rtol=0)


def test_shuffled_samples_have_the_agreement_of_chance() -> None:
    x = drawn(1, 400, 6, 4)
    shuffled = x[:, torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    assert metrics.mutual_knn(x, shuffled, COUNT).item() == pytest.approx(COUNT / 399, abs=0.006)


def null(x: torch.Tensor, y: torch.Tensor, count: int, observed: float, times: int, name: Any = "mutual_knn") -> Null:
    return null_of_maximum(name, metrics.nearest(x, count), metrics.nearest(y, count), observed, times, seed=3)


@pytest.mark.parametrize("name", sorted(metrics.OVER_NEIGHBOURS))
def test_the_null_is_that_of_computing_every_shuffle_anew(name: Any, both: Any) -> None:
    x, y = both
    found = null(x, y, COUNT, 1.1, 25, name)
    draw = torch.Generator().manual_seed(3)
    maxima = []
    for _ in range(25):
        renamed = torch.randperm(60, generator=draw)
        moved = torch.empty_like(y)
        moved[:, renamed] = y
        maxima.append(float(metrics.METRICS[name](x, moved, COUNT).max()))
    assert found.mean == pytest.approx(np.mean(maxima), abs=1e-6)
    assert found.high == pytest.approx(np.quantile(maxima, 0.95), abs=1e-6)
    assert found.p == 1 / 26
    # A score that a shuffle reaches counts, whatever the rounding.
    reached = sum(one >= sorted(maxima)[20] - 1e-6 for one in maxima)
    assert null(x, y, COUNT, sorted(maxima)[20] + 1e-6, 25, name).p == (1 + reached) / 26
    assert null(x, y, COUNT, min(maxima), 25, name).p == 1


def test_chance_grows_with_the_number_of_layers() -> None:
    few, many = (null(drawn(n, 80, 8, 5), drawn(n, 80, 8, 6), 5, 1.0, 40) for n in (1, 12))
    assert many.mean > few.mean * 1.15
    assert many.calibrated(many.mean) == 0 and many.calibrated(1) == 1


@pytest.mark.slow
def test_noise_is_significant_as_often_as_p_says() -> None:
    ps = []
    for seed in range(40):
        x, y = drawn(2, 40, 8, 100 + seed), drawn(2, 40, 8, 200 + seed)
        of_x, of_y = metrics.nearest(x, 5), metrics.nearest(y, 5)
        observed = float(metrics.by_sample("mutual_knn", of_x, of_y).mean(-1).max())
        ps.append(null_of_maximum("mutual_knn", of_x, of_y, observed, 39, seed=seed).p)
    assert 0.3 < np.mean(ps) < 0.75
    assert sum(p <= 0.1 for p in ps) <= 10


@pytest.mark.slow
def test_the_interval_covers_the_mean_of_other_pictures() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        low, high = interval_over_pictures(random.beta(2, 5, 120), 400, seed)
        covered += low < 2 / 7 < high
    assert covered >= 51


def test_clipping_uses_the_mean_of_the_samples_own_quantiles() -> None:
    features = drawn(2, 7, 5, 8)
    each = [float(np.quantile(features[:, at].abs().numpy(), 0.9)) for at in range(7)]
    clipped = metrics.clipped(features, 0.9)
    assert clipped.abs().max().item() == pytest.approx(np.mean(each), rel=1e-6)
    assert torch.equal(metrics.clipped(features, 1.0), features)


def test_rows_that_are_no_pair_are_counted_and_named(tmp_path: Path) -> None:
    rows = good(6)
    rows[1]["text"], rows[2]["text"], rows[4]["image"] = [], ["  "], {"bytes": None, "path": "x.png"}
    pairs = load_pairs(own_protocol(written(tmp_path / "p", rows)), "own")
    assert [pair.text for pair in pairs.pairs] == ["number 0", "number 3", "number 5"]
    assert [line.rpartition(".parquet")[2][:2] for line in pairs.failed] == [":2", ":3", ":5"]


def test_what_the_files_lack_is_one_line(tmp_path: Path) -> None:
    protocol = own_protocol(written(tmp_path / "p", good(3), name="picture"))
    with pytest.raises(UserError, match="has no column 'image'"):
        load_pairs(protocol, "own")
    with pytest.raises(UserError, match=r"no data 'ownn'.*own"):
        load_pairs(protocol, "ownn")
    (tmp_path / "p" / "pairs.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="as a parquet file"):
        load_pairs(protocol, "own")
    (tmp_path / "p" / "pairs.parquet").unlink()
    with pytest.raises(UserError, match="no files"):
        load_pairs(protocol, "own")


def test_too_few_pairs_for_neighbours(both: Any) -> None:
    with pytest.raises(UserError, match="9 pairs have no 10 neighbours"):
        metrics.mutual_knn(both[0][:, :9], both[1][:, :9], COUNT)


def test_the_shipped_protocol_is_the_papers() -> None:
    found = load_alignment("platonic")
    assert (found.metric, found.neighbours, found.clip) == ("mutual_knn", 10, 0.95)
    with pytest.raises(UserError, match="platonic"):
        load_alignment("platonik")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    return tmp_path / "results"


@pytest.mark.slow
def test_the_miniature_from_the_command_line(tmp_path: Path, results: Path) -> None:
    protocol = scenes(tmp_path / "p")
    asked = ["align", "mini-dino,mini-random", "--protocol", protocol, "--data", "own", "--permutations", "19"]
    first = CliRunner().invoke(app, [*asked, "--json"])
    assert first.exit_code == 0, first.output
    rows = [json.loads(line) for line in first.stdout.splitlines() if line.startswith("{")]
    assert [row["encoder"] for row in rows] == ["mini-dino", "mini-random"]
    assert all(row["pairs"] == 40 and 1 <= row["layer"] <= 6 and 0 <= row["score"] <= 1 for row in rows)
    assert all(row["interval"][0] <= row["score"] <= row["interval"][1] for row in rows)
    kept = {path: path.stat().st_mtime_ns for path in results.glob("alignment/features/*.safetensors")}
    assert len(kept) == 3
    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 0 and "mini-random" in again.stdout and "chance" in again.stdout
    # Features are kept: the second time nothing is encoded.
    assert {path: path.stat().st_mtime_ns for path in results.glob("alignment/features/*.safetensors")} == kept
    assert [path.name for path in results.glob("alignment/figures/*.png")] == ["layers.png"]


@pytest.mark.slow
def test_the_curve_against_size_is_drawn_where_sizes_differ(tmp_path: Path) -> None:
    from mllm_eval.report.site.visionplots import write_figures
    from mllm_eval.results.aligned import Aligned

    one = Aligned("a", "x", "p.v1", "mutual_knn", 0.2, 1, 0, [[0.2, 0.1]], (0.1, 0.3), None, None, 9, [], 5, 10, "cls")
    written = write_figures([one, dataclasses.replace(one, llm="y", llm_params=1000)], tmp_path)
    assert sorted(path.name for path in written) == ["layers.pdf", "layers.png", "size.pdf", "size.png"]


@pytest.mark.slow
def test_features_are_the_declared_summary_without_the_final_norm(tmp_path: Path) -> None:
    from mllm_eval.adapters import load_encoder_model
    from mllm_eval.alignment.representations import of_pictures
    from mllm_eval.catalog import load_encoder

    encoder = load_encoder("mini-dino")
    pairs = load_pairs(own_protocol(scenes(tmp_path / "p", 3)), "own").pairs
    seen = of_pictures(encoder, pairs)
    model = load_encoder_model(encoder)
    pixels = torch.from_numpy(np.stack([model.preprocess(pair.load()) for pair in pairs]))
    states: list[torch.Tensor] = []
    for block in model.blocks():
        block.register_forward_hook(lambda _module, _given, made: states.append(model.tokens(made)))
    with torch.no_grad():
        model.model(pixels)
    assert len(states) == len(seen.features) == 6
    torch.testing.assert_close(seen.features, torch.stack([one[:, 0] for one in states]), atol=1e-5, rtol=1e-4)
    mean = encoder.model_copy(update={"summary": "mean"})
    patches = torch.stack([one[:, model.prefix :].mean(1) for one in states])
    torch.testing.assert_close(of_pictures(mean, pairs).features, patches, atol=1e-5, rtol=1e-4)


def test_a_captions_features_do_not_depend_on_its_neighbours() -> None:
    from mllm_eval.alignment.representations import load_language, of_captions

    language = load_language("mini-llama")
    texts = [
        "The blue circle is in front of the green star.",
        "a red ring",
        "There are 6 objects. I see a yellow circle.",
    ]
    together = of_captions(language, texts)
    alone = torch.cat([of_captions(language, [text]) for text in texts], 1)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    ids = language.tokenizer(texts[1], return_tensors="pt")["input_ids"]
    states = language.model(ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(together[:, 1], torch.stack([one[0].mean(0) for one in states]), atol=1e-4, rtol=1e-4)


def test_an_unknown_language_model_is_one_line(results: Path) -> None:
    from mllm_eval.alignment.representations import load_language

    with pytest.raises(UserError, match=r"no LLM of configs/llms.*mini-llama"):
        load_language("mini-lama")


@pytest.mark.slow
def test_broken_pictures_above_a_percent_end_it(tmp_path: Path, results: Path) -> None:
    rows = good(12)
    rows[3]["image"] = {"bytes": b"no picture", "path": None}
    asked = ["align", "mini-dino", "--protocol", written(tmp_path / "p", rows), "--data", "own", "--permutations", "0"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 2 and "1 of 12 pairs cannot be read" in done.output and ".parquet:4" in done.output


@pytest.mark.slow
def test_captions_of_another_column_are_other_pairs(tmp_path: Path, results: Path) -> None:
    from mllm_eval.alignment import align

    folder = tmp_path / "p"
    path = Path(written(folder, good(8)))
    # A second column of captions, of which all but one are the same.
    others = [["one thing", *["a very different sentence"] * 7]]
    pq.write_table(pq.read_table(folder / "pairs.parquet").append_column("other", others), folder / "pairs.parquet")
    first = align("mini-dino", "mini-llama", own_protocol(str(path)), "own", 19)
    changed = folder / "other.yaml"
    changed.write_text(path.read_text() + "columns: {text: other}\n")
    second = align("mini-dino", "mini-llama", own_protocol(str(changed)), "own", 19)
    third = align("mini-dino", "mini-llama", own_protocol(str(path)), "own", 19)
    assert second.scores != first.scores and third.scores == first.scores
    assert len([*results.glob("alignment/mini-dino-*")]) == 2


@pytest.mark.slow
def test_an_encoder_of_the_same_name_with_other_weights_has_a_result_of_its_own(tmp_path: Path, results: Path) -> None:
    from mllm_eval.alignment import align
    from mllm_eval.catalog import load_encoder

    protocol = own_protocol(written(tmp_path / "p", good(8)))
    mine = load_encoder("mini-dino")
    align(mine, "mini-llama", protocol, "own", 0)
    align(mine.model_copy(update={"weights": load_encoder("mini-random").weights}), "mini-llama", protocol, "own", 0)
    assert len([*results.glob("alignment/mini-dino-*/alignment.json")]) == 2


@pytest.mark.slow
def test_measuring_leaves_the_process_as_it_was(tmp_path: Path, results: Path) -> None:
    from mllm_eval.alignment import align

    before = torch.are_deterministic_algorithms_enabled(), torch.get_rng_state(), dict(os.environ)
    align("mini-dino", "mini-llama", own_protocol(written(tmp_path / "p", good(8))), "own", 0)
    assert torch.are_deterministic_algorithms_enabled() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1]) and dict(os.environ) == before[2]


@pytest.mark.slow
def test_pairs_of_the_hub_are_fetched_and_locked(
    tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "p", good(8))
    with served(tmp_path, monkeypatch) as hub:
        hub.repos["datasets/own/pairs"] = {"data/pairs.parquet": (tmp_path / "p/pairs.parquet").read_bytes()}
        protocol = tmp_path / "own.yaml"
        place = '{repo: own/pairs, revision: main, files: "data/*.parquet"}'
        protocol.write_text(f"base: platonic\nname: own\nneighbours: 2\ndata:\n  own: {place}\n")
        asked = ["align", "mini-dino", "--protocol", str(protocol), "--data", "own", "--permutations", "0"]
        absent = CliRunner().invoke(app, asked)
        assert absent.exit_code == 2 and "own/pairs@main" in absent.output and "--fetch" in absent.output
        done = CliRunner().invoke(app, [*asked, "--fetch"])
        assert done.exit_code == 0, done.output
        assert "8 pictures" in done.output
    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 0 and len([*tmp_path.glob("data/locks/dataset/*.json")]) == 1
