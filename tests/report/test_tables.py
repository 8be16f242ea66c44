"""Tables: published ones cell for cell, comparisons of runs, five formats, sentences."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import made_runs
import numpy as np
import pytest
from places import ROOT

from mllm_eval import report, results
from mllm_eval.catalog.variant import DEFAULT
from mllm_eval.errors import UserError
from mllm_eval.report import Cell, Column, Row, Table
from mllm_eval.report.differences import Difference, Gain, RunPair, differences
from mllm_eval.report.evidence import read_scored
from mllm_eval.report.site.overview import lead_words
from mllm_eval.report.table import blocks, printed, signed, with_best, with_deltas
from mllm_eval.results import AVERAGE, RunRecord, read_run
from mllm_eval.stats import Interval
from mllm_eval.storage import SHIPPED

OCR = ("chartqa", "ocrbench", "textvqa", "docvqa")
PUBLISHED = [name for name in report.table_names() if name != "compare"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLLM_EVAL_RESULTS", str(tmp_path_factory.mktemp("results")))
        dino = made_runs.make_run("mini-dino", 0.5)
        made_runs.make_run("mini-dino", 0.3, variant="blind")
        clip = made_runs.make_run("mini-clip", 0.5, better_at=dict.fromkeys(OCR, 0.75))
        return [read_run(run.folder) for run in (dino, clip, made_runs.make_run("mini-random", 0.3))]


@pytest.fixture(scope="module")
def compared(three: list[RunRecord]) -> Table:
    return report.comparison(three, baseline="mini-random", intervals=True)


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# === published tables, cell for cell ===


def test_the_asked_tables_are_there() -> None:
    asked = {"sota", "scaling", "samples", "filtered", "resolution", "offshelf", "compare"}
    assert asked <= set(report.table_names())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cells_are_the_sources(name: str) -> None:
    """Each printed number is that of the csv, no digit lost; each text too; nothing is filled in or left out."""
    table = report.named_table(name, published_only=True)
    config = report.paper.load(SHIPPED / f"configs/tables/{name}.yaml",
                               report.paper.TableConfig)  # fmt: skip
    source = [line for part in config.published for _, line in _lines(part)]
    assert len(table.rows) == len(source)
    for row, line in zip(table.rows, source, strict=True):
        assert row.source == "published"
        for column in table.columns:
            text = row.cells[column.key].text
            if column.key in line.index:
                assert text == line[column.key] if column.text else float(text) == float(line[column.key])
            else:
                own = {"ocr_chart": "OCR_Chart", "vision_centric": "Vision_Centric"}.get(column.key)
                calculated = line[f"{own or column.key.title()}_calc"]
                assert float(text) == pytest.approx(float(calculated), abs=0.0051)


def _lines(part: report.paper.PublishedRows) -> list[tuple[int, object]]:
    frame = results.published(part.file)
    for key, allowed in part.where.items():
        frame = frame[frame[key].isin(allowed)]
    return list(frame.iterrows())


def test_every_row_of_the_paper_is_in_a_table() -> None:
    """All 41 rows with sixteen benchmarks, found by their sixteen numbers."""
    keys = list(results.columns().benchmarks)
    shown = set()
    for name in PUBLISHED:
        table = report.named_table(name, published_only=True)
        if {column.key for column in table.columns} >= set(keys):
            shown |= {tuple(float(row.cells[key].text) for key in keys) for row in table.rows}
    rows = {tuple(float(row[key]) for key in keys) for _, row in results.published("vqa_all.csv").iterrows()}
    assert rows == shown


def test_filtered_prints_the_papers_deltas() -> None:
    table = report.named_table("filtered", published_only=True)
    light = next(row for row in table.rows if row.label == "Web-DINO 2B, 50.3%")
    assert (light.cells["ocr_chart"].text, light.cells["ocr_chart"].delta) == ("33.2", "(+6.4)")
    assert light.cells["vision_centric"].delta == "(−0.8)"  # noqa: RUF001
    base = next(row for row in table.rows if row.label == "Web-DINO 2B, 100%")
    assert not any(cell.delta for cell in base.cells.values())


@pytest.mark.parametrize("name", ["sota", "offshelf"])
def test_the_papers_wrong_row_is_flagged_and_no_other(name: str) -> None:
    table = report.named_table(name, published_only=True)
    assert [row.label for row in table.rows if row.notes] == ["I-JEPA ViT-H @224"]
    assert "44.30" in report.render(table, "md")


def test_low_errors_are_the_best() -> None:
    table = report.named_table("sota", published_only=True)
    best = [row.label for row in table.rows if row.cells["nyud_lin1"].best]
    assert best == ["DINOv2 ViT-g @518"]


def test_unknown_names_come_with_near_ones() -> None:
    with pytest.raises(UserError, match=r"'scalin'.*scaling"):
        report.named_table("scalin")
    with pytest.raises(UserError, match=r"'htm'.*html"):
        report.render(report.named_table("sota", published_only=True), "htm")


def test_compare_without_runs_says_what_to_do() -> None:
    with pytest.raises(UserError, match="make eval"):
        report.named_table("compare")


def test_a_table_of_ones_own_drops_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_runs.make_run("mini-dino")
    folder = tmp_path / "configs" / "tables"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "name: mine\ntitle: Mine\ncolumns: [data, avg, mme]\n"
        "published: [{file: vqa_webdino7b_resolution.csv}]\nmeasured: [{encoder: 'mini-*'}]\n"
    )
    monkeypatch.chdir(tmp_path)
    table = report.named_table("mine")
    assert [row.source for row in table.rows] == ["published"] * 3 + ["measured"]
    assert table.rows[-1].cells["data"].text == "rendered"
    for form in report.FORMATS:
        text = report.render(table, form)
        assert text.count("published") >= 3 and run.hash in text
    assert [row.source for row in report.named_table("mine", published_only=True).rows] == ["published"] * 3
    (folder / "mine.yaml").write_text(
        "name: mine\ntitle: Mine\ncolumns: [avgg]\npublished: [{file: sota_table3.csv}]\n"
    )
    with pytest.raises(UserError, match=r"unknown column 'avgg'.*avg"):
        report.named_table("mine")


# === numbers ===


@pytest.mark.parametrize("value, decimals, rounding, text", [
    (0.125, 2, "round", "0.13"), (0.125, 2, "even", "0.12"), (0.129, 2, "truncate", "0.12"),
    (66.65, 1, "round", "66.7"), (-0.04, 1, "round", "0.0"), (1731.52, 0, "round", "1732"),
    (None, 1, "round", "–"), (float("nan"), 1, "round", "–"),  # noqa: RUF001
])  # fmt: skip
def test_printed(value: float | None, decimals: int, rounding: str, text: str) -> None:
    assert printed(value, decimals, rounding) == text  # type: ignore[arg-type]


@pytest.mark.parametrize("value, plain, typeset", [
    (0.25, "+0.3", "+0.3"), (-0.25, "-0.3", "−0.3"), (0.0, "0.0", "+0.0"), (-0.04, "0.0", "−0.0"),  # noqa: RUF001
])  # fmt: skip
def test_a_difference_has_its_sign(value: float, plain: str, typeset: str) -> None:
    assert (signed(value, 1), signed(value, 1, typeset=True)) == (plain, typeset)


def _row(label: str, text: str, source: str = "measured", **more: object) -> Row:
    return Row(label, source, {"x": Cell(text, float(text) if text != "–" else None)}, **more)  # type: ignore[arg-type]  # noqa: RUF001


def test_best_ties_stand_together_asides_and_the_other_source_apart() -> None:
    rows = [_row("a", "1.0"), _row("b", "1.0"), _row("c", "0.9"), _row("blind", "9.0", aside=True),
            _row("p", "5.0", "published")]  # fmt: skip
    marked = with_best(rows, [Column("x", "X")], "table")
    assert [row.cells["x"].best for row in marked] == [True, True, False, False, False]


def test_deltas_are_those_of_the_printed_numbers() -> None:
    rows = with_deltas([_row("a", "26.8"), _row("b", "33.2"), _row("c", "–")], [Column("x", "X")], "a")  # noqa: RUF001
    assert [row.cells["x"].delta for row in rows] == ["", "(+6.4)", ""]


# === runs ===


@pytest.mark.slow
def test_values_intervals_and_means_of_a_run(three: list[RunRecord]) -> None:
    """The intervals exist for all 21 numbers and hold them; the means are the paper's arithmetic."""
    run = read_scored(three[0])
    assert list(run.benchmarks) == list(results.columns().benchmarks)
    for key in [*run.benchmarks, "avg", "general", "knowledge", "ocr_chart", "vision_centric"]:
        found = run.interval(key)
        assert found is not None and found.low < found.value < found.high, key
    values = [run.values[name] / (20 if name == "mme" else 1) for name in run.benchmarks]
    assert run.values["avg"] == pytest.approx(np.mean(values))
    narrow, wide = run.interval("avg"), run.interval("gqa")
    assert narrow and wide and (narrow.high - narrow.low) < (wide.high - wide.low) / 2


@pytest.mark.slow
def test_the_interval_of_avg_is_that_of_independent_benchmarks(three: list[RunRecord]) -> None:
    run = read_scored(three[0])
    errors = [run.estimates[n].units.error * results.columns().percent(n) for n in run.benchmarks]
    assert run.draws["avg"].std() == pytest.approx(np.sqrt(np.square(errors).sum()) / 16, rel=0.05)


def test_a_value_that_no_estimator_gives_has_no_interval() -> None:
    run = made_runs.make_run("mini-dino", benchmarks=["gqa", "seed"])
    made_runs.write_scores(run, "gqa", [{**line, "score": 1} for line in made_runs.layout("gqa")], value=12.3)
    scored = read_scored(read_run(run.folder))
    assert scored.interval("gqa") is None and scored.interval("seed") is not None
    assert report.comparison([read_run(run.folder)], intervals=True).rows[0].cells["gqa"].text == "12.3"


@pytest.mark.slow
def test_a_benchmark_of_ones_own_stands_behind_and_outside_avg() -> None:
    run = made_runs.make_run("mini-dino")
    for_all = report.comparison([read_run(run.folder)]).rows[0].cells["avg"].text
    made_runs.write_scores(run, "easy_vqa", [{**line, "score": 1} for line in made_runs.layout("easy_vqa")])
    table = report.comparison([read_run(run.folder)])
    assert table.columns[-1].key == "easy_vqa"
    assert (table.rows[0].cells["easy_vqa"].text, table.rows[0].cells["avg"].text) == ("100.0", for_all)


@pytest.mark.slow
def test_avg_of_some_benchmarks_is_not_avg() -> None:
    run = made_runs.make_run("mini-dino", benchmarks=["gqa", "seed"])
    table = report.comparison([read_run(run.folder)])
    assert [column.key for column in table.columns] == ["gqa", "seed"]  # no column of dashes
    assert "no AVG without MME" in table.rows[0].notes[0]
    whole = made_runs.make_run("mini-clip")
    both = report.comparison([read_run(run.folder), read_run(whole.folder)])
    assert both.columns[0].key == "avg" and both.rows[0].cells["avg"].text == "–"  # noqa: RUF001


@pytest.mark.slow
def test_comparison_shows_runs_blind_rows_and_what_they_share(compared: Table, three: list[RunRecord]) -> None:
    assert [row.label for row in compared.rows] == ["mini-dino", "mini-clip", "mini-random", "mini-dino (blind)"]
    assert [row.aside for row in compared.rows] == [False, False, False, True]
    assert [column.key for column in compared.columns][:5] == [
        "avg", "general", "knowledge", "ocr_chart", "vision_centric"]  # fmt: skip
    assert len(compared.columns) == 21
    assert compared.rows[1].cells["ocr_chart"].best and compared.rows[1].cells["ocr_chart"].marks == "***"
    assert not compared.rows[2].cells["avg"].delta
    assert f"run {three[0].hash}, seed 0, 1288/1288 answers scored" in compared.rows[0].notes[0]
    assert "rules cambrian; recipe mini" in compared.notes[0]


@pytest.mark.slow
def test_sentences_say_who_beats_whom_with_interval_and_p(compared: Table) -> None:
    text = "\n".join(compared.sentences)
    assert re.search(
        r"mini-clip beats mini-random on .*OCR & Chart by \d+\.\d \[\d+\.\d, \d+\.\d\], p < 0\.001 after Holm", text
    )
    assert re.search(r"Seeing the images gives mini-dino \+\d+\.\d AVG over mini-dino \(blind\)", text)


@pytest.mark.slow
def test_the_blind_row_speaks_of_benchmarks_where_there_is_no_avg() -> None:
    run = made_runs.make_run("mini-dino", benchmarks=["gqa", "seed"])
    made_runs.make_run("mini-dino", 0.1, benchmarks=["gqa"], variant="blind")
    said = report.comparison([read_run(run.folder)]).sentences
    assert len(said) == 1
    assert re.fullmatch(r"Seeing the images gives mini-dino \+\d+\.\d GQA over mini-dino \(blind\)\.", said[0])


def _difference(key: str, value: float, holm: float) -> Difference:
    return Difference("x", "y", key, Interval(value, value - 1, value + 2), holm, holm)


UNSEEN = " (no blind rows: what the wording alone gives is not taken off)"


def _by_wording(seen: float, wording: float) -> list[RunRecord]:
    """Two runs: the first is right on `seen` with and `wording` without the image, the second on 0.2 of both."""
    records = []
    for name, shares in (("a", (seen, wording)), ("b", (0.2, 0.2))):
        run = made_runs.make_run(name, benchmarks=["gqa"])
        for variant, share in zip(("default", "blind"), shares, strict=True):
            lines = made_runs.layout("gqa", 100)
            right = set(
                np.random.default_rng(len(variant)).permutation(len(lines))[: round(share * len(lines))].tolist()
            )
            rows = [{**line, "score": int(index in right)} for index, line in enumerate(lines)]
            made_runs.write_scores(run, "gqa", rows, variant=variant)
        records.append(read_run(run.folder))
    return records


@pytest.mark.slow
def test_a_difference_that_is_there_without_the_image_is_no_win() -> None:
    table = report.comparison(_by_wording(0.5, 0.5))
    said = "\n".join(table.sentences)
    assert "beats" not in said
    assert re.search(
        r"a is above b on GQA by 30\.0 \[.*but not by sight: without the image the two differ as well, by 30\.0; "
        r"visual gains differ by 0\.0 \[",
        said,
    )


@pytest.mark.slow
def test_a_difference_of_visual_gains_is_a_win() -> None:
    table = report.comparison(_by_wording(0.7, 0.2))
    assert any(
        re.match(r"a beats b on GQA by 50\.0 \[[\d., ]+\], p < 0\.001 after Holm\.", one) for one in table.sentences
    )
    assert any("visual gains" in note for note in table.notes)


@pytest.mark.slow
def test_above_chance_is_above_the_blind_row_of_the_run() -> None:
    a, _ = _by_wording(0.5, 0.5)
    assert read_scored(a).values["gqa"] > 25
    (tied,) = report.above_chance(a)
    assert not tied.above and tied.p is not None and tied.p > 0.1 and tied.blind == pytest.approx(50)
    (won,) = report.above_chance(_by_wording(0.7, 0.2)[0])
    assert won.above


def test_sentences_of_made_up_differences() -> None:
    assert report.sentences([_difference("avg", 3, 0.2), _difference("general", 8.1, 0.0101)]) == [
        "No category separates x from y at p < 0.01 after Holm."]  # fmt: skip
    assert report.sentences([_difference("ocr_chart", -8.1, 0.0004), _difference("general", 2, 0.004)]) == [
        f"x beats y on General by 2.0 [1.0, 4.0], p = 0.004 after Holm{UNSEEN}.",
        f"y beats x on OCR & Chart by 8.1 [6.1, 9.1], p < 0.001 after Holm{UNSEEN}."]  # fmt: skip
    assert report.sentences([_difference("gqa", 1, 0.5)]) == [
        "No benchmark separates x from y at p < 0.01 after Holm."]  # fmt: skip


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["ab"], "a from b"),
        (["ab", "ac", "bc"], "any two of a, b, c"),
        (["ab", "ac"], "a from b or c"),
        (["ab", "cd"], "a from b; c from d"),
        (["ac", "bc", "de"], "c from a or b; d from e"),
    ],
)
def test_pairs_that_nothing_separates_are_one_sentence(pairs: list[str], said: str) -> None:
    found = [Difference(a, b, "gqa", Interval(0, -1, 1), 0.5, 0.5) for a, b in pairs]
    assert report.sentences(found) == [f"No benchmark separates {said} at p < 0.01 after Holm."]


@pytest.mark.slow
def test_two_seeds_of_one_encoder_are_told_apart_and_do_not_differ() -> None:
    runs = [made_runs.make_run("mini-dino", seed=seed, benchmarks=["gqa"]) for seed in (0, 1)]
    table = report.comparison([read_run(run.folder) for run in runs])
    assert [row.label for row in table.rows] == ["mini-dino (seed 0)", "mini-dino (seed 1)"]
    assert "No benchmark separates" in table.sentences[0]


def test_unequal_recipes_are_refused_unless_asked_for() -> None:
    one = made_runs.make_run("mini-dino", benchmarks=["gqa"])
    two = made_runs.make_run("mini-clip", benchmarks=["gqa"], chosen=made_runs.recipe("other", tokens=16))
    with pytest.raises(UserError, match=r"do not share one recipe and LLM: mini \(.*other \("):
        report.comparison([read_run(one.folder), read_run(two.folder)])
    table = report.comparison([read_run(one.folder), read_run(two.folder)], mixed_recipes=True)
    assert any("not the encoder's" in note for note in table.notes)


def test_runs_scored_by_different_protocols_are_refused() -> None:
    runs = [made_runs.make_run(name, benchmarks=["gqa"]) for name in ("mini-dino", "mini-clip")]
    lines = [{**line, "score": 1} for line in made_runs.layout("gqa")]
    made_runs.write_scores(runs[1], "gqa", lines, protocol_hash="another")
    with pytest.raises(UserError, match="gqa was scored by different protocols"):
        report.comparison([read_run(run.folder) for run in runs])


def test_unknown_baseline_and_unscored_runs_are_one_line(three: list[RunRecord]) -> None:
    with pytest.raises(UserError, match=r"no row 'mini-rando'.*mini-random"):
        report.comparison(three, baseline="mini-rando")
    with pytest.raises(UserError, match=r"nothing scored by 'robust' rules"):
        report.comparison(three, rules="robust")


def _pair(score_a: list[float | None], score_b: list[float | None]) -> list[Difference]:
    runs = []
    for name, scores in (("a", score_a), ("b", score_b)):
        run = made_runs.make_run(name, benchmarks=["gqa"])
        lines = [{"id": f"{i:03}", "group": str(i), "cluster": f"c{i // 2}", "score": s} for i, s in enumerate(scores)]
        made_runs.write_scores(run, "gqa", lines)
        runs.append(read_scored(read_run(run.folder)))
    return differences([RunPair("a", runs[0], "b", runs[1])])


def test_a_failed_sample_leaves_both_sides() -> None:
    (found,) = _pair([1, 1, 1, 0, None, 1], [0, 1, 0, 0, 0, None])
    assert found.difference.value == pytest.approx(50)
    assert (found.only_a, found.only_b) == (2, 0)
    assert found.mcnemar == pytest.approx(0.5)


@pytest.mark.slow
def test_other_samples_are_not_compared() -> None:
    assert _pair([1, 0, 1, 0], [1, 0, 1, 0, 1]) == []


@pytest.mark.slow
def test_soft_scores_have_no_mcnemar() -> None:
    (found,) = _pair([1, 0.5, 1, 0], [1, 0, 1, 0])
    assert found.mcnemar is None and found.difference.value == pytest.approx(12.5)


@pytest.mark.slow
def test_holm_is_over_the_whole_table(three: list[RunRecord]) -> None:
    runs = [read_scored(record) for record in three]
    one = differences([RunPair("b", runs[1], "c", runs[2])])
    both = differences([RunPair("b", runs[1], "c", runs[2]), RunPair("a", runs[0], "c", runs[2])])
    assert (len(one), len(both)) == (21, 42)
    smallest = min(one, key=lambda d: d.p)
    twin = next(d for d in both if (d.a, d.key) == (smallest.a, smallest.key))
    assert smallest.holm == pytest.approx(21 * smallest.p)
    assert twin.p == smallest.p and twin.holm > smallest.holm


@pytest.mark.slow
def test_above_chance_counts_and_names() -> None:
    run = made_runs.make_run("mini-dino", benchmarks=["gqa", "seed"])
    made_runs.write_scores(run, "seed", [{**line, "score": int(i % 4 == 0)}
                                         for i, line in enumerate(made_runs.layout("seed"))])  # fmt: skip
    made_runs.make_run("mini-dino", 0.1, benchmarks=["gqa"], variant="blind")
    gqa, seed = report.above_chance(read_run(run.folder))
    assert gqa.above and gqa.p is not None and gqa.p < 0.001 and gqa.blind is not None
    assert not seed.above and seed.value == 25 and seed.p == pytest.approx(0.5) and seed.blind is None
    assert report.chance_table(read_run(run.folder)).sentences == (
        "1 of 2 benchmarks are above chance at p < 0.01; not above: SEED (25.0, chance 25.0).",)  # fmt: skip


# === formats ===

NASTY = "<b>&\"' 50% $x_1$ #{a}~^\\ | *bold* `c` [l](u) é 中 \n=1+1"


def _nasty() -> Table:
    cells = {"x": Cell("1.0", 1.0, best=True, delta="(−0.5)", marks="**", low=0.5, high=1.5, interval="[0.5, 1.5]"),  # noqa: RUF001
             "t": Cell(NASTY)}  # fmt: skip
    return Table(NASTY, NASTY, (Column("t", NASTY, text=True), Column("x", "X", group=NASTY)),
                 (Row(NASTY, "measured", cells, group=NASTY, notes=(NASTY,)),), (NASTY,), (NASTY,))  # fmt: skip


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_well_formed_escapes_all_and_fetches_nothing(compared: Table) -> None:
    reader = _Reader()
    page = report.render(_nasty(), "html")
    reader.feed(page)
    assert reader.open == [] and "b" not in reader.seen
    assert reader.text.count(NASTY) == 10
    whole = report.render(compared, "html")
    assert "prefers-color-scheme: dark" in whole
    for outside in ("http:", "https:", "src=", "url(", "<script", "@import"):
        assert outside not in whole


def test_markdown_keeps_its_columns() -> None:
    lines = [line for line in report.render(_nasty(), "md").splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}
    assert "**1.0** (−0.5)\\*\\* [0.5, 1.5]" in lines[-1]  # noqa: RUF001


def test_csv_reads_back(compared: Table) -> None:
    (row,) = _rows(report.render(_nasty(), "csv"))
    assert (row["label"], row["t"], row["x"], row["x_low"], row["x_delta"]) == (NASTY, NASTY, "1.0", "0.5000", "-0.5")
    rows = _rows(report.render(compared, "csv"))
    assert [row["variant"] for row in rows] == ["default"] * 3 + ["blind"]
    assert all(float(row["avg_low"]) < float(row["avg"]) < float(row["avg_high"]) for row in rows)
    assert {row["n_ok"] for row in rows} == {"1288"} and len({row["recipe_hash"] for row in rows}) == 1


def test_latex_escapes_all_and_balances() -> None:
    text = report.render(_nasty(), "tex")
    body = text.split("\n", 1)[1].replace(r"\ifdim\wd0>", "").replace(r"\relax>", "")
    plain = re.sub(r"\\[\\{}$&#%_]", "", body)
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"(?<!\\)[#~^]|中|<|>|\|", plain)
    assert r"50\% \$x\_1\$ \#\{a\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
@pytest.mark.parametrize("case", ["nasty", "compared", "offshelf", "high"])
def test_latex_compiles_in_a_plain_article(case: str, compared: Table, tmp_path: Path) -> None:
    table = {"nasty": _nasty, "compared": lambda: compared,
             "offshelf": lambda: report.named_table("offshelf", published_only=True),
             "high": lambda: replace(compared, rows=compared.rows * 6)}[case]()  # fmt: skip
    whole = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n%s\\end{document}\n"
    (tmp_path / "t.tex").write_text(whole % report.render(table, "tex"), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and "Float too large" not in done.stdout


def test_latex_prints_a_minus_before_numbers_only() -> None:
    cell = Cell("-0.4", -0.4, low=-1.0, high=0.2, interval="[-1.0, 0.2]")
    row = Row("ViT-7B", "measured", {"a": cell, "b": Cell("MC-2B")})
    text = report.render(Table("t", "T", (Column("a", "A"), Column("b", "B", text=True)), (row,)), "tex")
    assert "$-$0.4" in text and "{[}$-$1.0, 0.2{]}" in text and "ViT-7B" in text and "MC-2B" in text


@pytest.mark.parametrize("width", [60, 100, 200])
def test_terminal_fits_its_width_and_loses_no_column(compared: Table, width: int) -> None:
    text = report.terminal.terminal(compared, width, color=False)
    assert max(map(len, text.splitlines())) <= width
    for column in compared.columns:
        assert text.count(column.title) >= 1
    assert [c.key for block in blocks(compared, width) for c in block] == [c.key for c in compared.columns]
    assert "\x1b" not in text and "\x1b" in report.terminal.terminal(compared, width, color=True)


def test_terminal_takes_control_signs_out() -> None:
    row = Row("a\x1b[31mred", "measured", {"x": Cell("[bold]1[/bold]")})
    text = report.terminal.terminal(Table("t", "t", (Column("x", "X"),), (row,)), 80, color=False)
    assert "\x1b" not in text and "[bold]1[/bold]" in text


def test_tables_are_written_in_all_formats(compared: Table, tmp_path: Path) -> None:
    written = report.write_tables(compared, tmp_path / "tables", "compare", list(report.FORMATS))
    assert [path.name for path in written] == [f"compare.{e}" for e in ("txt", "csv", "md", "tex", "html")]
    assert all(path.stat().st_size > 500 for path in written)
    again = report.write_tables(compared, tmp_path / "again", "compare", ["html"])
    assert again[0].read_bytes() == written[4].read_bytes()


@pytest.mark.slow
def test_the_same_runs_give_the_same_table(three: list[RunRecord], compared: Table) -> None:
    assert report.comparison(three, baseline="mini-random", intervals=True) == compared


@pytest.mark.slow
def test_no_model_and_nothing_slow_is_loaded_to_make_a_table() -> None:
    code = ("import sys; from mllm_eval import report; report.render(report.named_table('sota', True), 'html');"
            "print({'torch', 'transformers', 'datasets', 'scipy.stats'} & set(sys.modules))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.slow
def test_speed_does_not_hang_on_the_number_of_runs(three: list[RunRecord], monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of a draw, the expensive part, are made once a benchmark for all runs."""
    made = []
    from mllm_eval.stats import bootstrap

    whole = bootstrap.draw_weights
    monkeypatch.setattr(bootstrap, "draw_weights", lambda *rest: made.append(1) or whole(*rest))
    anew = [read_run(one.folder) for one in three]  # a record keeps what was drawn of it
    report.comparison(anew, variants=(DEFAULT,))
    assert len(made) == 16


def test_a_runs_seed_and_seed_bench_have_columns_of_their_own(three: list[RunRecord], compared: Table) -> None:
    text = report.render(compared, "csv")
    head = text.splitlines()[0].split(",")
    assert len(set(head)) == len(head) and {"run_seed", "seed"} <= set(head)
    line = next(row for row in _rows(text) if row["run"] == three[0].hash)
    assert line["run_seed"] == "0" and line["seed"] == compared.rows[0].cells["seed"].text != "0"


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (
            Gain(Interval(1.0, -1.0, 3.0), 0.3, 0.3),
            "Its lead of 4.0 over y is more than chance, but was not shown to come from the images (p < 0.001 after "
            "correction; without the image the two differ as well, by 3.0; visual gains differ by 1.0 [-1.0, 3.0], "
            "p = 0.300 after Holm).",
        ),
        (
            Gain(Interval(4.0, 3.0, 5.0), 0.0001, 0.0001),
            "Its lead of 4.0 over y is more than chance (p < 0.001 after correction).",
        ),
    ],
)
def test_the_first_sentence_of_the_site_says_whether_the_lead_comes_from_the_images(gain: Gain, said: str) -> None:
    def run(label: str, value: float) -> Any:
        scored = SimpleNamespace(values={AVERAGE: value}, interval=lambda _: None)
        return SimpleNamespace(label=label, scored=scored)

    lead = Difference("x", "y", AVERAGE, Interval(4.0, 3.0, 5.0), 0.0001, 0.0001, gain=gain)
    evidence: Any = SimpleNamespace(seeing=[run("y", 30.0), run("x", 34.0)], differences=[lead])
    assert lead_words(evidence) == f"x has the highest AVG, 34.0. {said}"


@pytest.mark.slow
def test_the_page_on_statistics_makes_a_table_as_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mini-dino", "mini-random"):
        made_runs.make_run(name)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/statistics.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(code, {})
    assert "mini-random" in capsys.readouterr().out
