"""Fits on published points, seeds, power, subsets, cost, choice of runs and differences of runs, through files."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import made_runs
import pytest
from typer.testing import CliRunner

from mllm_eval import report
from mllm_eval.catalog import load_encoder
from mllm_eval.catalog.variant import BLIND, DEFAULT, VariantKey
from mllm_eval.cli.app import app
from mllm_eval.errors import UserError
from mllm_eval.operations.count import encoding
from mllm_eval.operations.shapes import encoder_shape
from mllm_eval.pipeline.ledger import Ledger, VariantPart
from mllm_eval.pipeline.reporter import Silent
from mllm_eval.report import choice, cost, diff, scalingtable, seedtable, sizing
from mllm_eval.results import AVERAGE, columns, read_run, read_timings
from mllm_eval.results.published import reference_folder
from mllm_eval.run import Run
from mllm_eval.storage import results_home


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))


def command(*words: str) -> str:
    found = CliRunner().invoke(app, list(words))
    assert found.exit_code == 0, found.output
    return found.output


# --- scaling -----------------------------------------------------------------


def _references() -> list[dict[str, str]]:
    with open(reference_folder() / "derived_scaling_fits.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("curve", ["params", "samples"])
def test_fits_on_published_points_are_the_references_to_the_third_decimal(curve: str) -> None:
    names = {AVERAGE: "AVG", **{key: one.csv[0] for key, one in columns().categories.items()}}
    names["avg_no_mathvista"] = "AVG_no_MathVista"
    wanted = {(row["family"], row["metric"]): row for row in _references()}
    met = 0
    for line in scalingtable.lines(curve):
        row = wanted.get((line.family, names[line.key]))
        if row is None:
            continue
        fit = line.fit
        found = (fit.slope.value, fit.intercept.value, fit.r2)
        assert [f"{number:.3f}" for number in found] == [
            f"{float(row[key]):.3f}" for key in ("slope_per_doubling", "intercept", "r2")
        ]
        assert len(line.names) == int(row["n_points"])
        met += 1
    assert met == sum(("samples" in row["x"]) == (curve == "samples") for row in wanted.values())


def test_exact_sizes_are_those_of_the_model_zoo() -> None:
    with open(reference_folder() / "model_zoo.csv", encoding="utf-8") as file:
        zoo = {row["name"]: float(row["params_B"]) for row in csv.DictReader(file)}
    sizes = scalingtable.scaling().sizes
    for label, exact in sizes.items():
        names = [name for name in zoo if re.match(rf"webssl-dino{label.lower()}-full\db-224", name)]
        assert names and all(zoo[name] == exact for name in names)


def test_web_dino_passes_clip_within_the_sizes_that_were_trained() -> None:
    said = scalingtable.scaling_table("params", [AVERAGE]).sentences
    assert re.fullmatch(r"On AVG the line of Web-DINO passes that of CLIP at 4\.7 B \[\d\.\d, \d\.\d\]\.", said[0])


@pytest.mark.slow
def test_measured_runs_have_a_line_of_their_own() -> None:
    sizes = {"webssl-dino1b-full2b-224": (1_134_800_000, 0.4), "webssl-dino2b-full2b-224": (2_084_200_000, 0.6)}
    for name, (params, skill) in sizes.items():
        run = made_runs.make_run(name, skill, benchmarks=["gqa"])
        path = run.folder / "config.yaml"
        path.write_text(path.read_text().replace("params: 1300000", f"params: {params}", 1))
    runs = [report.read_scored(read_run(folder)) for folder in sorted((results_home() / "runs").iterdir())]
    mine = [line for line in scalingtable.lines("params", ["gqa"], runs) if line.source == "measured"]
    assert [line.family for line in mine] == ["Web-DINO"]
    assert sorted(mine[0].fit.x) == pytest.approx([1.1348, 2.0842]) and mine[0].fit.slope.value > 5


@pytest.mark.parametrize(
    ("text", "size"), [("2B", 2.0), ("700M", 0.7), ("1.5 B", 1.5), ("300 epochs", None), ("", None)]
)
def test_amounts_are_read(text: str, size: float | None) -> None:
    assert scalingtable.billions(text) == (pytest.approx(size) if size else None)


def test_unknown_curves_and_metrics_name_a_near_one() -> None:
    with pytest.raises(UserError, match=r"curve 'param'.*params"):
        scalingtable.lines("param")
    with pytest.raises(UserError, match=r"metric 'generl'.*general"):
        scalingtable.lines("params", ["generl"])


# --- seeds -------------------------------------------------------------------


def _seeded(name: str, skills: list[float]) -> list[report.Scored]:
    runs = [made_runs.make_run(name, skill, seed=seed, benchmarks=["gqa"]) for seed, skill in enumerate(skills)]
    return [report.read_scored(read_run(run.folder)) for run in runs]


@pytest.mark.slow
def test_seeds_show_both_variances() -> None:
    table = seedtable.seed_table(_seeded("mini-dino", [0.3, 0.5, 0.7]))
    assert table is not None
    row = table.rows[0]
    assert row.label == "GQA" and row.group == "mini-dino, seeds 0, 1, 2"
    assert row.cells["between"].value == pytest.approx(20, abs=9) and row.cells["within"].value == pytest.approx(
        5, abs=2.5
    )
    assert row.cells["mean"].interval and row.cells["values"].text.count("·") == 2


@pytest.mark.slow
def test_a_claim_smaller_than_seed_noise_is_called_that() -> None:
    both = [*_seeded("mini-dino", [0.3, 0.5, 0.7]), *_seeded("mini-clip", [0.35, 0.5, 0.75])]
    said = seedtable.seed_sentences(seedtable.seed_groups(both))
    assert len(said) == 1 and "no more than what two seeds of one encoder differ by" in said[0]


@pytest.mark.slow
def test_a_claim_beyond_seed_noise_has_its_p() -> None:
    both = [*_seeded("mini-dino", [0.2, 0.22, 0.21]), *_seeded("mini-clip", [0.8, 0.81, 0.79])]
    said = seedtable.seed_sentences(seedtable.seed_groups(both))
    assert re.search(r"mini-clip is \d+\.\d \[.*\] above mini-dino over 3 and 3 seeds, p", said[0])


@pytest.mark.slow
def test_no_interval_over_two_seeds_leaves_the_scale() -> None:
    """Student's t has one degree of freedom with two seeds: 12.7 standard errors to each side."""
    both = []
    for name, skills in (("mini-dino", (0.1, 0.9)), ("mini-clip", (0.3, 0.9))):
        for seed, skill in enumerate(skills):
            run = made_runs.make_run(name, skill, seed=seed)
            both.append(report.read_scored(read_run(run.folder)))
    table = seedtable.seed_table(both)
    assert table is not None
    ends = {"MME": 2000.0}
    limits = [(row.label, row.cells["mean"].low, row.cells["mean"].high) for row in table.rows]
    assert len(limits) == 2 * (len(columns().benchmarks) + 5)
    assert all(0 <= low < high <= ends.get(label, 100.0) for label, low, high in limits)
    assert {("MME", 0.0, 2000.0), ("GQA", 0.0, 100.0), ("AVG", 0.0, 100.0)} <= set(limits)
    for one in seedtable.compare_groups(seedtable.seed_groups(both)):
        assert -100 <= one.gap.difference.low < one.gap.difference.high <= 100 and one.gap.noise <= 100


def _blind(runs: list[report.Scored], share: float) -> None:
    for run in runs:
        made_runs.make_run(run.record.encoder, share, seed=run.record.seed, benchmarks=["gqa"], variant="blind")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blind", "said"),
    [
        ((), r"\(no blind rows: what the wording alone gives is not taken off\)\.$"),
        ((0.2, 0.2), r", by sight: .*visual gains differ by \d+\.\d \[[\d., ]+\], p < 0\.001\.$"),
        (
            (0.2, 0.8),
            r", but not by sight: without the image the two differ as well, by \d+\.\d; visual gains differ by ",
        ),
    ],
)
def test_seeds_speak_of_sight_where_blind_rows_are(blind: tuple[float, ...], said: str) -> None:
    one, two = _seeded("mini-dino", [0.2, 0.22, 0.21]), _seeded("mini-clip", [0.8, 0.81, 0.79])
    for runs, share in zip((one, two), blind, strict=False):
        _blind(runs, share)
    (found,) = seedtable.seed_sentences(seedtable.seed_groups([*one, *two]))
    assert re.search(said, found), found


@pytest.mark.slow
def test_seeds_on_one_image_say_no_more_than_they_can() -> None:
    both = []
    for name, skills in (("mini-dino", [0.1, 0.12]), ("mini-clip", [0.8, 0.82])):
        for seed, skill in enumerate(skills):
            run = made_runs.make_run(name, seed=seed, benchmarks=["gqa"])
            lines = [{**line, "cluster": "one", "score": int(index < 80 * skill)}
                     for index, line in enumerate(made_runs.layout("gqa"))]  # fmt: skip
            made_runs.write_scores(run, "gqa", lines)
            both.append(report.read_scored(read_run(run.folder)))
    table = seedtable.seed_table(both)
    assert table is not None
    assert [row.cells["mean"].interval for row in table.rows] == ["", ""]
    assert [row.cells["within"].text for row in table.rows] == ["–", "–"]  # noqa: RUF001
    assert "above mini-dino over 2 and 2 seeds, p unknown" in table.sentences[0] and "[" not in table.sentences[0]


def test_one_seed_each_has_no_table_and_the_comparison_says_so() -> None:
    runs = [made_runs.make_run(name, benchmarks=["gqa"]) for name in ("mini-dino", "mini-clip")]
    assert seedtable.seed_table([report.read_scored(read_run(run.folder)) for run in runs]) is None
    assert any("One seed each" in note for note in report.comparison([read_run(run.folder) for run in runs]).notes)


# --- power and subsets -------------------------------------------------------


@pytest.fixture
def two() -> list[report.Scored]:
    runs = [made_runs.make_run("mini-dino", 0.3), made_runs.make_run("mini-clip", 0.6)]
    return [report.read_scored(read_run(run.folder)) for run in runs]


@pytest.mark.slow
def test_power_of_avg_is_that_of_its_parts(two: list[report.Scored]) -> None:
    found = {one.key: one for one in sizing.power(*two, wanted=2.0)}
    draws = two[0].draws[AVERAGE] - two[1].draws[AVERAGE]
    assert found[AVERAGE].error == pytest.approx(float(draws.std()), rel=0.06)
    assert found[AVERAGE].difference == pytest.approx(two[0].values[AVERAGE] - two[1].values[AVERAGE])
    assert found["gqa"].needed == pytest.approx(80 * (found["gqa"].detectable / 2) ** 2)
    # MME is printed on a scale of 2000 but asked for on that of 100
    assert found["mme"].needed == pytest.approx(found["mme"].questions * (found["mme"].detectable / 40) ** 2)


@pytest.mark.slow
def test_a_subset_is_stratified_and_ranks_are_compared(two: list[report.Scored]) -> None:
    third = report.read_scored(read_run(made_runs.make_run("mini-random", 0.1).folder))
    parts = sizing.thinned(two[0], 320)
    sizes = {name: len(one.frame) for name, one in parts.items()}
    # two pictures of each of MME's tasks, where its share would be one
    assert sizes.pop("mme") == 44 and set(sizes.values()) <= set(range(16, 25))
    assert set(parts["cvbench_2d"].stratum) == {"ADE20K", "COCO"}
    table = sizing.subset_table([*two, third], ["a", "b", "c"], 320)
    assert "Spearman 1.00" in table.sentences[0]
    cell = table.rows[0].cells["avg_part"]
    assert cell.low is not None and cell.high is not None and cell.low < two[0].values[AVERAGE] < cell.high
    with pytest.raises(UserError, match="subset of 5"):
        sizing.subset_table(two, ["a", "b"], 5)


def test_power_names_what_tells_two_runs_apart() -> None:
    runs = [
        report.read_scored(read_run(made_runs.make_run("mini-dino", 0.1 * seed, seed=seed, benchmarks=["gqa"]).folder))
        for seed in (0, 1)
    ]
    assert sizing.power_table(*runs, wanted=2.0).title == "Power: mini-dino (seed 0) against mini-dino (seed 1)"


def _on_one_image() -> list[report.Scored]:
    found = []
    for name, share in (("mini-dino", 0.3), ("mini-clip", 0.6)):
        run = made_runs.make_run(name, benchmarks=["gqa"])
        lines = [{**line, "cluster": "one", "score": int(index < 80 * share)}
                 for index, line in enumerate(made_runs.layout("gqa"))]  # fmt: skip
        made_runs.write_scores(run, "gqa", lines)
        found.append(report.read_scored(read_run(run.folder)))
    return found


@pytest.mark.slow
def test_one_image_has_no_interval_as_a_subset_and_promises_no_power() -> None:
    runs = _on_one_image()
    cell = sizing.subset_table(runs, ["a", "b"], 160).rows[0].cells["gqa_part"]
    assert cell.value == 30 and cell.interval == "" and cell.low is None
    (row,) = sizing.power_table(*runs, wanted=2.0).rows
    shown = [row.cells[key].text for key in ("difference", "error", "detectable", "needed")]
    assert shown == ["−30.0", "–", "–", "–"]  # noqa: RUF001


def test_a_subset_that_is_all_wrong_does_not_claim_certainty() -> None:
    run = report.read_scored(read_run(made_runs.make_run("mini-dino", -9, benchmarks=["gqa"]).folder))
    cell = sizing.subset_table([run], ["a"], 160).rows[0].cells["gqa_part"]
    assert cell.value == 0 and cell.low == 0 and cell.high is not None and cell.high > 30


@pytest.mark.slow
def test_a_subset_of_everything_is_everything(two: list[report.Scored]) -> None:
    table = sizing.subset_table(two, ["a", "b"], 10**6)
    assert table.rows[0].cells["avg"].text == table.rows[0].cells["avg_part"].text


# --- cost --------------------------------------------------------------------


def _costing(name: str = "mini-dino", typed: bool = True) -> Path:
    run = made_runs.make_run(name, benchmarks=["gqa"])
    answers = run.folder / "answers"
    answers.mkdir()
    line = {
        "id": "1",
        "prompt": "p",
        "images": [],
        "text": "B",
        "tokens_in": 99,
        "tokens_out": 1,
        "state": "ok",
        "reason": "",
    }
    (answers / "gqa.jsonl").write_text((json.dumps(line) + "\n") * 10)
    (answers / "gqa.blind.jsonl").write_text(json.dumps({**line, "tokens_in": 1}) + "\n")
    write_ledger(run.folder, typed=typed)
    return run.folder


def write_ledger(folder: Path, typed: bool) -> None:
    # Titles as no version writes them: nothing may be read from them.
    steps = [
        ("stage one (of two)", 60, {"kind": "training"}),
        ("pictures", 4, {"kind": "features", "benchmark": "gqa", "variant": "default"}),
        ("features: gqa", 1000, {"kind": "features", "benchmark": "gqa", "variant": "no_ocr_tokens"}),
        ("talk (gqa)", 6, {"kind": "answers", "benchmark": "gqa", "variant": "default"}),
        ("answers: gqa", 100, {"kind": "answers", "benchmark": "gqa", "variant": "blind"}),
        ("answers: gqa", 30, {"kind": "answers", "benchmark": "gqa", "variant": "default@100"}),
    ]
    text = "".join(
        json.dumps({"step": step, **(about if typed else {}), "seconds": s, "cpu_seconds": s, "peak_mib": 1}) + "\n"
        for step, s, about in steps
    )
    (folder / "ledger.jsonl").write_text(text + '{"step": "cut o')


def test_cost_is_counted_from_config_answers_and_ledger() -> None:
    found = cost.cost_of(read_run(_costing()))
    # 2 per weight and token (positions are added, not multiplied), 4 * depth * width * tokens**2
    assert found.encoder_gflop == pytest.approx((2 * (1.3e6 - 64 * 128) * 64 + 4 * 6 * 128 * 64**2) / 1e9)
    # 36 tokens of the image, 63 of the question; words are chosen at one position.
    weights, words, projector = 2e6 - 2 * 700 * 128, 700 * 128, 129 * 128 + 129 * 128
    attention = 4 * 4 * 128 * (36**2 + 63 * 99)
    assert found.llm_gflop == pytest.approx((2 * (weights * 99 + words + projector * 36) + attention) / 1e9, rel=2e-3)
    assert (found.visual_tokens, found.training_s, found.seconds_a_question) == (36, 60, 1.0)


def test_the_cost_of_a_subset_is_its_own() -> None:
    folder = _costing()
    lines = (folder / "answers" / "gqa.jsonl").read_text().splitlines()
    (folder / "answers" / "gqa.default@100.jsonl").write_text("".join(line + "\n" for line in lines[:5]))
    found = cost.cost_of(read_run(folder), VariantKey("default", 100))
    assert (found.questions, found.seconds_a_question) == (5, 6.0)


def test_layers_that_are_not_run_cost_nothing() -> None:
    """What `plan` says of an image and what a run's cost says are one number."""
    encoder = load_encoder("mini-dino")
    run = Run(encoder, made_runs.recipe(), made_runs.llm(), 0, {"encoder": "e", "llm": "l"})
    run.prepare()
    found = cost.cost_of(read_run(run.folder)).encoder_gflop
    assert round(found, 3) == 0.120
    assert found * 1e9 == encoding(encoder_shape(encoder), 1)


def test_timings_without_kinds_give_no_seconds_and_the_table_says_so() -> None:
    folder = _costing(typed=False)
    found = cost.cost_of(read_run(folder))
    assert (found.training_s, found.seconds_a_question, found.typed) == (None, None, False)
    out = command("table", "--cost", "--format", "md")
    assert f"No seconds of {folder.name}: the timings were written by a version" in out.replace("\\", "")


def test_what_was_done_together_is_told_apart_by_fields(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, Silent())
    parts = [VariantPart("a", "gqa", DEFAULT, 3), VariantPart("b", "mme", BLIND, 1)]
    with ledger.step("all of it", "features", parts=parts, counted="images"):
        pass
    first, second = read_timings(tmp_path)
    assert (first.kind, first.benchmark, str(first.variant), first.amounts) == (
        "features",
        "gqa",
        "default",
        (("images", 3),),
    )
    assert (second.benchmark, str(second.variant), second.amounts) == ("mme", "blind", (("images", 1),))


def test_cost_stands_beside_the_score() -> None:
    _costing()
    out = command("table", "--cost", "--format", "csv")
    row = next(csv.DictReader(out.splitlines()))
    assert (row["visual_tokens"], row["seconds"]) == ("36", "1.0000") and float(row["gflop"]) > 0


# --- which runs, and how they differ -----------------------------------------


@pytest.mark.slow
def test_a_bare_table_shows_one_recipe_and_says_what_it_left_out() -> None:
    for name in ("mini-dino", "mini-clip"):
        made_runs.make_run(name, benchmarks=["gqa"])
    other = made_runs.make_run("mini-random", benchmarks=["gqa"], chosen=made_runs.recipe("other", tokens=16))
    made_runs.make_run("mini-late", benchmarks=["gqa"]).scores_path("gqa", "cambrian").parent.rename(
        results_home() / "gone")  # fmt: skip
    out = command("table", "--format", "csv")
    assert [row["encoder"] for row in csv.DictReader(out.splitlines())] == ["mini-clip", "mini-dino"]
    said = " ".join(command("table", "--format", "md").replace("\\", "").split())
    assert (
        f"Left out: mini-random [{other.hash}], of recipe other" in said and "not scored by cambrian rules yet" in said
    )
    assert "mini-random" in command("table", "--mixed-recipes", "--format", "csv")


def test_of_two_recipes_with_as_many_runs_the_later_is_shown() -> None:
    import os

    one = made_runs.make_run("mini-dino", benchmarks=["gqa"])
    two = made_runs.make_run("mini-clip", benchmarks=["gqa"], chosen=made_runs.recipe("other", tokens=16))
    for path in (one.folder / "scores").iterdir():
        os.utime(path, (1, 1))
    chosen = choice.choose_one_recipe([read_run(one.folder), read_run(two.folder)], "cambrian")
    assert [record.hash for record in chosen.runs] == [two.hash]
    assert choice.choose_one_recipe([], "cambrian") == choice.Choice([], [])


@pytest.mark.slow
def test_diff_names_what_differs_and_nothing_else() -> None:
    one, two = (made_runs.make_run(name, benchmarks=["gqa"]) for name in ("mini-dino", "mini-clip"))
    for run, text in ((one, "A"), (two, "B")):
        (run.folder / "answers").mkdir()
        rows = [{"id": line["id"], "text": text if int(line["id"]) < 10 else "C"} for line in made_runs.layout("gqa")]
        (run.folder / "answers" / "gqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = diff.diff(read_run(one.folder), read_run(two.folder))
    assert found.config["encoder.name"] == ("mini-dino", "mini-clip")
    assert not any(key.startswith("recipe") for key in found.config) and found.environment == {} == found.data
    answers = found.answers[0]
    assert (answers.shared, answers.same) == (80, 70)
    scores = [report.read_scored(read_run(run.folder)).scores["score"].to_numpy() for run in (one, two)]
    assert (answers.only_a, answers.only_b) == (int((scores[0] > scores[1]).sum()), int((scores[1] > scores[0]).sum()))
    out = command("diff", "mini-dino", "mini-clip")
    assert "environment: equal" in out and "encoder.name" in out and "gqa" in out


@pytest.mark.slow
def test_what_was_trained_on_and_how_it_was_scored_may_differ() -> None:
    one, two = (made_runs.make_run(name, benchmarks=["gqa"]) for name in ("mini-dino", "mini-clip"))
    one.note_training_data({"a.jsonl": {"size": 10, "sha256": "0" * 64}})
    two.note_training_data({"a.jsonl": {"size": 11, "sha256": "0" * 64}})
    lines = made_runs.layout("gqa")
    made_runs.write_scores(two, "gqa", [{**line, "score": 1} for line in lines], protocol_hash="ba9876543210")
    found = diff.diff(read_run(one.folder), read_run(two.folder)).data
    assert found["protocol of gqa"] == ("gqa@cambrian.v1 0123456789ab", "gqa@cambrian.v1 ba9876543210")
    assert [value for key, value in found.items() if key.startswith("trained on")] == [("10", "11")]
    assert "protocol of gqa" in command("diff", "mini-dino", "mini-clip")


@pytest.mark.slow
def test_statistics_commands_print_and_fail_in_one_line() -> None:
    for name in ("mini-dino", "mini-clip"):
        made_runs.make_run(name, benchmarks=["gqa"])
    assert "Needed for 2" in command("stats", "power", "mini-dino", "mini-clip", "--difference", "2")
    assert "subset of 40" in command("stats", "subset", "--size", "40")
    assert "+1.876" in command("stats", "scaling", "--metrics", "avg")
    found = CliRunner().invoke(app, ["stats", "seeds"])
    assert found.exit_code == 2 and "--seed 1" in found.output + (found.stderr or "")


@pytest.mark.slow
def test_weighing_loads_no_model() -> None:
    import subprocess
    import sys

    rooms = ", ".join(
        f"mllm_eval.report.{name}" for name in ("scalingtable", "seedtable", "sizing", "cost", "choice", "diff")
    )
    code = f"import sys, {rooms}; print(sorted({{'torch', 'transformers', 'matplotlib'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
