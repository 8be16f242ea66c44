"""Runs and published rows as data frames; categories and AVG by the paper's arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import made_runs
import pandas as pd
import pytest

from mllm_eval import results
from mllm_eval.catalog import load_benchmark, names, paper_benchmarks
from mllm_eval.catalog.variant import BLIND, DEFAULT
from mllm_eval.errors import UserError
from mllm_eval.run import Run

FOUR = {
    "general": "General",
    "knowledge": "Knowledge",
    "ocr_chart": "OCR_Chart",
    "vision_centric": "Vision_Centric",
}
ALL = results.published("vqa_all.csv")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))


@pytest.fixture
def run() -> Run:
    return made_runs.make_run("mini-dino", benchmarks=["gqa", "mme"])


# === columns ===


def test_columns_are_the_papers_benchmarks_in_its_order() -> None:
    assert list(results.columns().benchmarks) == paper_benchmarks()


@pytest.mark.parametrize("name", [n for n in names("benchmarks") if n in results.columns().benchmarks])
def test_columns_say_what_the_benchmarks_say(name: str) -> None:
    benchmark, column = load_benchmark(name), results.columns().benchmarks[name]
    assert benchmark.category == column.category
    assert benchmark.scale * column.percent == 100


# === published rows ===


def test_all_41_rows_are_there() -> None:
    assert len(ALL) == 41


@pytest.mark.parametrize("index", range(41))
def test_categories_are_those_calculated_independently(index: int) -> None:
    row = ALL.iloc[index]
    means = results.columns().means(results.values(row, "vqa_all.csv"))
    for key, name in FOUR.items():
        assert means[key] == pytest.approx(float(row[f"{name}_calc"]), abs=0.0006)
    assert means["avg"] == pytest.approx(sum(means[key] for key in FOUR) / 4)


def test_printed_averages_are_met_in_40_rows_and_the_other_is_flagged() -> None:
    gaps = []
    for _, row in ALL.iterrows():
        means = results.columns().means(results.values(row, "vqa_all.csv"))
        gaps.append(round(abs(means["avg"] - float(row["avg"])), 3))
    assert sorted(gap > 0.005 for gap in gaps) == [False] * 40 + [True]
    flagged = {row["model"]: results.contradiction(row, "vqa_all.csv") for _, row in ALL.iterrows()}
    wrong = {model: text for model, text in flagged.items() if text}
    assert wrong == {"I-JEPA ViT-H @224": "the source prints AVG 44.78, its sixteen values give 44.30"}


def test_published_cells_keep_their_text() -> None:
    assert ALL.iloc[0]["docvqa"] == "17.0"
    assert ALL.iloc[0]["mme"] == "1731.52"


def test_unknown_published_table_names_a_near_one() -> None:
    with pytest.raises(UserError, match=r"vqa_al\.csv.*vqa_all\.csv"):
        results.published("vqa_al.csv")


def test_a_cell_that_is_no_number_is_named(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("model,GQA\nx,sixty\n")
    with pytest.raises(UserError, match="row 1, gqa: 'sixty'"):
        results.values(results.published(tmp_path / "own.csv").iloc[0], "row 1")


@pytest.mark.parametrize("text", ["", "a,b\n1,2,3\n"])
def test_a_csv_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(UserError, match=r"own\.csv: not a csv table"):
        results.published(tmp_path / "own.csv")


def test_a_mean_with_a_missing_member_is_left_out() -> None:
    values = results.values(ALL.iloc[0], "x")
    del values["gqa"]
    assert set(results.columns().means(values)) == {"knowledge", "ocr_chart", "vision_centric"}
    assert "general" not in results.columns().means({**values, "gqa": float("nan")})


# === runs ===


def test_a_run_is_read_as_it_was_written(run: Run) -> None:
    record = results.read_run(run.folder)
    assert (record.hash, record.name, record.encoder) == (run.hash, run.name, "mini-dino")
    assert (
        record.recipe_hash == run.recipe.hash == json.loads((run.folder / "manifest.json").read_text())["recipe_hash"]
    )
    assert record.facts["params"] == "1.3M"


@pytest.mark.slow
def test_runs_of_two_encoders_hold_the_rest_equal_and_of_two_recipes_do_not(run: Run) -> None:
    def held(other: Run) -> str:
        return results.read_run(other.folder).held_equal

    alike = made_runs.make_run("mini-clip", seed=1, benchmarks=["gqa"])
    recipe = made_runs.make_run("mini-dino", benchmarks=["gqa"], chosen=made_runs.recipe("mini", tokens=16))
    brain = made_runs.make_run("mini-dino", benchmarks=["gqa"], brain=made_runs.llm("other"))
    assert held(run) == held(alike)
    assert held(run) not in (held(recipe), held(brain))


def test_scores_are_a_row_a_sample(run: Run) -> None:
    frame = results.read_run(run.folder).scores("cambrian")
    assert set(frame["benchmark"]) == {"gqa", "mme"}
    gqa = frame[frame["benchmark"] == "gqa"]
    assert len(gqa) == 80 and gqa["id"].is_monotonic_increasing
    assert frame["stratum"].isna().all()
    assert 100 * gqa["score"].mean() == pytest.approx(
        results.read_run(run.folder).summaries("cambrian")["gqa"]["value"]
    )


def test_failed_samples_are_nan_not_zero(run: Run) -> None:
    lines = [{"id": str(i), "group": "g", "cluster": "c", "score": None if i == 3 else 1} for i in range(5)]
    made_runs.write_scores(run, "gqa", lines)
    scores = results.read_run(run.folder).scores("cambrian", benchmarks=["gqa"])["score"]
    assert scores.isna().tolist() == [False, False, False, True, False]
    assert scores.sum() == 4


def test_variants_and_rules_are_told_apart(run: Run) -> None:
    blind = [{"id": "1", "group": "g", "cluster": "c", "score": 0}]
    made_runs.write_scores(run, "gqa", blind, variant="blind")
    made_runs.write_scores(run, "gqa", blind, rules="robust")
    record = results.read_run(run.folder)
    assert record.variants("cambrian") == [DEFAULT, BLIND]
    assert record.rules == ["cambrian", "robust"]
    assert set(record.summaries("cambrian", BLIND)) == {"gqa"}
    assert len(record.scores("cambrian", BLIND)) == 1


def test_nothing_scored_is_an_empty_frame_with_columns(run: Run) -> None:
    frame = results.read_run(run.folder).scores("robust")
    assert isinstance(frame, pd.DataFrame) and frame.empty and "score" in frame


@pytest.mark.parametrize(
    "change, wrong",
    [
        ({"score": 2}, r"gqa\.cambrian\.jsonl:2: score 2"),
        ({"score": "1"}, r"gqa\.cambrian\.jsonl:2: score '1'"),
        ({"id": "0"}, "sample '0' comes twice"),
    ],
)
def test_a_wrong_line_is_named(run: Run, change: dict[str, object], wrong: str) -> None:
    lines = [{"id": str(i), "group": "g", "cluster": "c", "score": 1} for i in range(3)]
    made_runs.write_scores(run, "gqa", lines)
    lines[1].update(change)
    path = run.scores_path("gqa", "cambrian")
    path.write_text("\n".join(json.dumps({"parsed": "A", "note": "", **line}) for line in lines))
    with pytest.raises(UserError, match=wrong):
        results.read_run(run.folder).scores("cambrian")


def test_a_lost_line_and_a_lost_key_are_named(run: Run) -> None:
    path = run.scores_path("gqa", "cambrian")
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[:-1]))
    with pytest.raises(UserError, match=r"gqa\.cambrian\.jsonl: 79 samples, its summary says 80"):
        results.read_run(run.folder).scores("cambrian")
    path.write_text("\n".join([*whole[:4], whole[4].replace('"cluster"', '"claster"'), *whole[5:]]))
    with pytest.raises(UserError, match=r"gqa\.cambrian\.jsonl:5: no 'cluster'"):
        results.read_run(run.folder).scores("cambrian")


def test_an_unscored_benchmark_names_a_near_one(run: Run) -> None:
    with pytest.raises(UserError, match=r"'gqq'.*gqa"):
        results.read_run(run.folder).scores("cambrian", benchmarks=["gqq"])


def test_a_folder_without_a_config_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml"):
        results.read_run(tmp_path)
