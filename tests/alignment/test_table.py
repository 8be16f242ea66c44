"""What is said of alignments: which encoder lies nearer, whether stage 2 brings a language model nearer, figures."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from mllm_eval.report.alignmenttable import alignment_table
from mllm_eval.report.site.visionplots import write_figures
from mllm_eval.results.aligned import RESULT, Aligned, Null, read_aligned, saved_alignments

NULL = Null(0.012, 0.014, 0.005, 199)


def aligned(encoder: str, llm: str, shift: float, base: str = "", size: int = 1_000_000) -> Aligned:
    """A result whose pictures have the values of any other, moved by `shift`."""
    values = (np.random.default_rng(0).integers(0, 5, 200) / 10 + shift).tolist()
    score = float(np.mean(values))
    limits = (score - 0.02, score + 0.02)
    return Aligned(
        encoder, llm, "platonic.v1", "mutual_knn", score, 2, 1, [[0.1, 0.05], [0.1, score]], limits, NULL,
        NULL.calibrated(score), 200, [], 2_000_000, size, "cls", base, "mini", "same", "weights", values,
    )  # fmt: skip


def test_adapting_is_tested_on_the_same_pictures() -> None:
    before = aligned("enc", "llm", 0.1)
    nearer, further = (aligned("enc", f"llm after run-{name}", at, "llm") for name, at in (("a", 0.13), ("b", 0.06)))
    said = alignment_table([before, nearer, further]).sentences
    assert said[0] == "llm after run-a is nearer to enc than llm (0.030 [0.030, 0.030], p < 0.001)."
    assert said[1].startswith("llm after run-b is further from enc than llm (-0.040")
    assert len(said) == 2
    assert "not told apart" in alignment_table([before, replace(nearer, by_picture=before.by_picture)]).sentences[0]


@pytest.mark.slow
def test_encoders_are_tested_beside_an_llm_as_released_alone() -> None:
    found = [aligned("one", "llm", 0.1), aligned("two", "llm", 0.2), aligned("two", "llm after r", 0.2, "llm"),
             aligned("one", "llm after r", 0.2, "llm")]  # fmt: skip
    table = alignment_table(found[:2])
    assert table.sentences[0].startswith("one is further from llm than two (-0.100")
    assert [row.cells["score"].best for row in table.rows] == [False, True]
    assert all(row.cells["chance"].text == "0.012" and row.cells["p"].text == "0.005" for row in table.rows)
    # The pair of encoders once, and each encoder's LLM before and after.
    assert len(alignment_table(found).sentences) == 3


@pytest.mark.parametrize("change", [{"pictures": "others"}, {"metric": "cka"}, {"by_picture": None}])
def test_what_is_not_of_the_same_pictures_is_not_tested(change: dict[str, object]) -> None:
    found = [aligned("one", "llm", 0.1), replace(aligned("two", "llm", 0.2), **change)]  # type: ignore[arg-type]
    assert alignment_table(found).sentences == ()


def test_a_metric_without_chance_says_so() -> None:
    kernel = replace(
        aligned("one", "llm", 0.1), metric="cka", interval=None, null=None, calibrated=None, by_picture=None
    )
    table = alignment_table([kernel])
    assert any(note.startswith("cka: no mean over pictures") for note in table.notes)
    assert not any("shuffled" in note or "bootstrap" in note for note in table.notes)
    usual = alignment_table([aligned("one", "llm", 0.1)])
    assert any("shuffled" in note for note in usual.notes) and any("bootstrap" in note for note in usual.notes)
    assert not any("no mean over pictures" in note for note in usual.notes)


def test_results_are_read_back_and_those_of_unknown_weights_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))
    for number, one in enumerate(
        (aligned("b", "llm", 0.1), aligned("a", "llm", 0.1), replace(aligned("c", "l", 0), weights=""))
    ):
        place = tmp_path / "alignment" / f"{one.encoder}-{number}" / RESULT
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps(asdict(one)))
    (tmp_path / "alignment" / "d-3").mkdir()
    (tmp_path / "alignment" / "d-3" / RESULT).write_text('{"encoder": 3}')
    assert saved_alignments() == [aligned("a", "llm", 0.1), aligned("b", "llm", 0.1)]
    assert read_aligned(tmp_path / "alignment" / "b-0" / RESULT).null == NULL


@pytest.mark.slow
def test_a_curve_is_drawn_against_each_size_that_differs(tmp_path: Path) -> None:
    one = aligned("a", "x", 0.1)
    assert [path.name for path in write_figures([one], tmp_path / "1")] == ["layers.png", "layers.pdf"]
    wider = replace(one, encoder="b", encoder_params=9_000_000)
    larger = aligned("a", "y", 0.2, size=8_000_000)
    names = {path.name for path in write_figures([one, wider, larger], tmp_path / "2")}
    assert names == {"layers.png", "layers.pdf", "size.png", "size.pdf"}
