"""Published rows that count a benchmark otherwise than their heading says, and measured rows beside them."""

from __future__ import annotations

import csv
import io
import re
from itertools import combinations
from pathlib import Path

import made_runs
import numpy as np
import pandas as pd
import pytest

from mllm_eval import report
from mllm_eval.catalog import load_benchmark
from mllm_eval.catalog.benchmark import answers_variant
from mllm_eval.catalog.variant import DEFAULT, VariantKey
from mllm_eval.data import snapshots
from mllm_eval.data.samples import Sample
from mllm_eval.report import scalingtable
from mllm_eval.report.counted import recounted
from mllm_eval.report.evidence import read_scored
from mllm_eval.report.site.build import write_report
from mllm_eval.results import columns, read_run
from mllm_eval.results.published import reference_folder
from mllm_eval.score import score_samples, summarize

PREDICTORS = ("MMBench_EN", "SEED_I", "GQA")
PERCEPTION_OF_CAMBRIAN_8B = 1547.1
TOTAL = 1950.0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table_of(home: Path, name: str, columns: str, file: str, more: str = "") -> None:
    folder = home / "configs" / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(
        f"name: {name}\ntitle: {name}\ncolumns: [{columns}]\npublished: [{{file: {file}}}]\n"
        f"measured: [{{encoder: 'mini-*'}}]\n{more}"
    )


# --- what is said of the published column ------------------------------------


def gaps(predictors: tuple[str, ...]) -> tuple[np.ndarray, float]:
    """How far the 41 rows lie above the line of Cambrian-1's 18 encoders, and the deviation of those from it."""
    study, rows = (pd.read_csv(reference_folder() / name)
                   for name in ("cambrian_study_frozen_1p2M_737K.csv", "vqa_all.csv"))  # fmt: skip

    def design(frame: pd.DataFrame) -> np.ndarray:
        return np.column_stack([np.ones(len(frame)), frame[list(predictors)]])

    line, (left,), *_ = np.linalg.lstsq(design(study), study["MME_P"], rcond=None)
    return rows["MME_P"] - design(rows) @ line, float(np.sqrt(left / (len(study) - len(line))))


def test_the_footnote_says_what_the_published_tables_give() -> None:
    (way,) = columns().benchmarks["mme"].published
    printed = pd.read_csv(reference_folder() / "vqa_all.csv")["MME_P"]
    above, _ = gaps(PREDICTORS)
    wanted = [f"{len(printed)} values", f"{printed.min():,.2f}", f"{printed.max():,.2f}",
              f"{PERCEPTION_OF_CAMBRIAN_8B:,}", "18 encoders", f"{above.min():.0f} to {above.max():.0f}",
              f"{above.mean():.0f} in the mean"]  # fmt: skip
    assert [text for text in wanted if text not in " ".join(way.known.split())] == []
    assert printed.min() > PERCEPTION_OF_CAMBRIAN_8B
    # 16 benchmarks in AVG, 4 in General, MME divided by 20; cognition of Cambrian-1-8B is 319.6
    for share, text in ((16 * 20, "AVG {} to {}"), (4 * 20, "General {} to {}")):
        said = text.format(f"{above.mean() / share:.1f}", f"{319.6 / share:.1f}")
        assert said in " ".join(way.inferred.split())


@pytest.mark.parametrize("predictors", [part for n in (1, 2, 3) for part in combinations(PREDICTORS, n)])
def test_perception_alone_fits_the_published_column_by_no_regression(predictors: tuple[str, ...]) -> None:
    """Whichever of General's other benchmarks predict it: every row is higher by far more than encoders scatter."""
    above, scatter = gaps(predictors)
    assert above.min() > 2.5 * scatter and 200 < above.mean() < 400


def test_what_published_tables_are_taken_for_asks_the_same_and_is_there() -> None:
    files = {path.name for path in reference_folder().glob("*.csv")}
    for name, column in columns().benchmarks.items():
        for way in column.published:
            benchmark = load_benchmark(name)
            assert benchmark.variant(VariantKey(way.variant)).metric
            assert all(answers_variant(benchmark, VariantKey(way.variant), pin) == DEFAULT for pin in benchmark.data)
            assert all(any(Path(file).match(pattern) for file in files) for pattern in way.files)
    assert set(columns().counted_as("sota_table3.csv")) == {"mme"} == set(columns().counted_as("vqa_all.csv"))
    assert columns().counted_as("cambrian_study_frozen_1p2M_737K.csv") == {}
    assert "perception + cognition" in (reference_folder() / "benchmarks.csv").read_text()


# --- the variant --------------------------------------------------------------


def test_total_counts_fourteen_categories_and_knows_its_chance() -> None:
    benchmark = load_benchmark("mme")
    names = [*made_runs.TASKS, "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]
    samples = [
        Sample("mme", f"{name}/{image}{part}", (), "", gold, f"{name}/{image}", "",
               {"question_id": f"{name}/{image}", "category": name, "answer": gold})
        for name in names for image in range(2) for part, gold in (("", "Yes"), ("#2", "No"))
    ]  # fmt: skip
    said = {sample.id: "yes" if sample.record["category"] == "code_reasoning" else sample.target for sample in samples}
    scores = score_samples(benchmark, "cambrian", samples, said)
    found = {
        variant: summarize(benchmark, "cambrian", samples, scores, VariantKey(variant))
        for variant in ("default", "total")
    }
    assert [found[name].value for name in ("default", "total")] == [2000.0, 2000.0 + 3 * 200 + 50]
    assert [found[name].chance for name in ("default", "total")] == [750.0, 1050.0]
    assert found["total"].protocol == found["default"].protocol


# --- beside published rows ----------------------------------------------------


def test_a_measured_row_is_shown_as_the_published_rows_count_in_every_format(home: Path) -> None:
    run = made_runs.make_run("mini-dino", reported={"mme": {"total_score": TOTAL}})
    table_of(home, "mine", "avg, general, mme, gqa", "vqa_webdino7b_resolution.csv")
    table = report.named_table("mine")
    own, again = table.rows[3:]
    values = read_scored(read_run(run.folder)).values
    assert own.cells["mme"].value == values["mme"] and own.cells["avg"].value == values["avg"]
    assert (again.label, again.cells["mme"].text, again.source) == ("mini-dino: MME total", "1950.0", "measured")
    more = (TOTAL - values["mme"]) / 20
    assert again.cells["avg"].value == pytest.approx(values["avg"] + more / 16)
    assert again.cells["general"].value == pytest.approx(values["general"] + more / 4)
    assert again.cells["gqa"] == own.cells["gqa"]
    assert again.aside and not any(cell.best for cell in again.cells.values())
    for form in report.FORMATS:
        text = " ".join(re.sub(r"[*_\\]", "", report.render(table, form)).split())
        assert "MME total" in text and "1950.0" in text
        assert form == "csv" or ("Known: the paper heads" in text and "Inferred, and not said" in text)
    lines = list(csv.DictReader(io.StringIO(report.render(table, "csv"))))
    assert [line["counted"] for line in lines] == ["MME total (inferred)"] * 3 + ["", "MME total"]
    assert [line["variant"] for line in lines[3:]] == ["default", "mme.total"]


def test_no_difference_is_taken_between_two_ways_to_count(home: Path) -> None:
    made_runs.make_run("mini-dino", reported={"mme": {"total_score": TOTAL}})
    table_of(home, "mine", "avg, general, knowledge", "filtered_table2.csv", "delta: {row: CLIP 2B}\n")
    own, again = report.named_table("mine").rows[-2:]
    assert [bool(own.cells[key].delta) for key in ("avg", "general", "knowledge")] == [False, False, True]
    assert all(again.cells[key].delta for key in ("avg", "general", "knowledge"))
    against = report.named_table("mine", options=report.TableOptions(baseline="mini-dino: MME total")).rows
    assert against[0].cells["avg"].delta and not against[-2].cells["avg"].delta
    assert against[-2].cells["knowledge"].delta == "(+0.0)"


@pytest.mark.parametrize(
    ("shown", "file", "reported"),
    [
        ("avg, mme", "cambrian_study_frozen_1p2M_737K.csv", {"total_score": TOTAL}),
        ("knowledge, gqa", "vqa_webdino7b_resolution.csv", {"total_score": TOTAL}),
        ("avg, mme", "vqa_webdino7b_resolution.csv", {}),
        ("avg, mme", "vqa_webdino7b_resolution.csv", {"total_score": "?"}),
    ],
)
def test_no_row_where_nothing_is_counted_otherwise_or_the_number_is_not_there(
    home: Path, shown: str, file: str, reported: dict[str, object]
) -> None:
    made_runs.make_run("mini-dino", reported={"mme": reported})
    table_of(home, "mine", shown, file)
    table = report.named_table("mine")
    assert [row.label for row in table.rows if row.source == "measured"] == ["mini-dino"]
    lacks = reported.get("total_score") != TOTAL
    assert any("MME total of mini-dino is not in its scores" in note for note in table.rows[-1].notes) == lacks
    assert any("Known:" in note for note in table.notes) == lacks


@pytest.mark.slow
def test_runs_alone_are_counted_as_the_headings_say() -> None:
    run = made_runs.make_run("mini-dino", reported={"mme": {"total_score": TOTAL}})
    table = report.comparison([read_run(run.folder)])
    assert [row.label for row in table.rows] == ["mini-dino"] and "MME total" not in report.render(table, "md")


def test_published_rows_alone_say_what_they_hold() -> None:
    for name in ("sota", "scaling", "filtered"):
        table = report.named_table(name, published_only=True)
        assert any("Inferred" in note for note in table.notes) and {row.source for row in table.rows} == {"published"}


def test_the_total_has_the_interval_of_all_its_categories() -> None:
    lines = made_runs.layout("mme")
    rng = np.random.default_rng(3)
    for line in lines:
        line["score"] = int(rng.random() < 0.6)
    run = made_runs.make_run("mini-dino", benchmarks=["gqa"])

    def score(task: str) -> float:
        own = [line for line in lines if line["group"].startswith(f"{task}/")]
        pairs = [min(line["score"] for line in own if line["group"] == group) for group in {x["group"] for x in own}]
        return 100 * sum(line["score"] for line in own) / len(own) + 100 * sum(pairs) / len(pairs)

    total = sum(map(score, [*made_runs.TASKS, "code_reasoning"]))
    made_runs.write_scores(run, "mme", lines, reported={"total_score": total})
    own = read_scored(read_run(run.folder))
    again = recounted(own, columns().counted_as("vqa_all.csv"))
    found, less = again.interval("mme"), own.interval("mme")
    assert found and less and found.value == pytest.approx(total) and found.low < total < found.high
    assert again.estimates["mme"].units.weight.sum() == 2200 and own.estimates["mme"].units.weight.sum() == 2000
    assert found.high - found.low > less.high - less.low


@pytest.mark.slow
def test_a_measured_line_is_counted_as_the_published_one_beside_it() -> None:
    sizes = {"webssl-dino1b-full2b-224": (1_134_800_000, 1500.0), "webssl-dino2b-full2b-224": (2_084_200_000, 1700.0)}
    for name, (params, total) in sizes.items():
        path = made_runs.make_run(name, reported={"mme": {"total_score": total}}).folder / "config.yaml"
        path.write_text(path.read_text().replace("params: 1300000", f"params: {params}", 1))
    runs = [read_scored(read_run(path.parent)) for path in sorted(Path("results/runs").glob("*/config.yaml"))]
    (line,) = (one for one in scalingtable.lines("params", ["mme"], runs) if one.source == "measured")
    assert sorted(line.fit.y) == [1500.0, 1700.0]
    notes = " ".join(scalingtable.scaling_table("params", ["avg_no_mathvista"], runs).notes)
    assert "Measured lines are counted as the published ones: by MME total." in notes
    assert "MME" not in " ".join(scalingtable.scaling_table("params", ["gqa"], runs).notes)


@pytest.mark.slow
def test_the_report_shows_it_with_the_published_rows(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    general = [name for name, column in columns().benchmarks.items() if column.category == "general"]
    monkeypatch.setattr(snapshots, "load_samples", lambda *_: [])
    monkeypatch.setattr("mllm_eval.report.site.build.scaling_page", lambda *_: "")
    run = made_runs.make_run("mini-dino", benchmarks=general, reported={"mme": {"total_score": TOTAL}})
    page = (write_report([read_run(run.folder)], home / "report") / "index.html").read_text()
    (row,) = re.findall(r'<tr class="measured aside published">.*?</tr>', page)
    assert "mini-dino: MME total" in row and 'data-v="1950.000000"' in row
    assert "Inferred, and not said by the source" in page
