"""Scores without leaked samples: beside the scores, never instead; and the report's page of both pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import site_runs
from made_runs import layout, make_run
from PIL import Image
from typer.testing import CliRunner

from mllm_eval.cli.app import app
from mllm_eval.data import snapshots
from mllm_eval.leaks import trainingsets
from mllm_eval.leaks.findings import Found, Overlap, Settings, place_of
from mllm_eval.report import render
from mllm_eval.report.evidence import read_scored
from mllm_eval.report.site import write_report
from mllm_eval.report.site.contents import gather
from mllm_eval.report.site.leakspage import found_leaks
from mllm_eval.report.withoutleaked import leaks_table, without_leaked
from mllm_eval.results import read_run
from mllm_eval.run import Run
from mllm_eval.storage import write_json, write_jsonl

SETTINGS = Settings(hash="h", views=30, radius=10, encoder="mini-dino", weights="w", alarm=0.001, most=256)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))
    monkeypatch.setattr(trainingsets, "identity_of", lambda recipe: [recipe.name])
    return tmp_path


def leak(
    name: str,
    benchmark: str,
    ids: list[str],
    pairs: list[dict[str, Any]] | None = None,
    questions: tuple[str, ...] = (),
) -> Path:
    """Findings of a corpus, as `mllm-eval leaks` writes them."""
    folder = place_of(name, [name]) / "found" / "mini"
    rows = [{"id": one, "picture": True, "question": False, "both": False} for one in ids]
    rows += [{"id": one, "picture": False, "question": True, "both": False} for one in questions]
    found = Found(
        benchmark=benchmark, data="mini", corpus=name, of="x", settings=SETTINGS, images=1000, broken_images=1,
        broken_images_first=("a.png: broken",), broken_rows=0, broken_rows_first=(), samples=80, pictures=40,
        broken_pictures=0, broken_pictures_first=(), candidates=9, looked_at=9, different=320, threshold=0.9,
        alarm=1 / 320, pairs=len(pairs or []), leaked_pictures=len(pairs or []), asked=80, standing=len(questions),
        leaked={"pictures": len(ids), "questions": len(questions), "both": 0, "either": len(rows)},
    )  # fmt: skip
    write_jsonl(folder / f"{benchmark}.samples.jsonl", rows)
    write_jsonl(folder / f"{benchmark}.pairs.jsonl", pairs or [])
    asked = [
        {"question": site_runs.EVIL, "samples": [one], "n_samples": 1, "rows": 3, "where": "t:1"} for one in questions
    ]
    write_jsonl(folder / f"{benchmark}.questions.jsonl", asked)
    write_json(folder / f"{benchmark}.json", found.model_dump(mode="json"))
    return folder


def test_leaked_samples_leave_the_sums_and_the_stored_score_stays() -> None:
    run = make_run("mini-dino", benchmarks=["gqa", "mme"])
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    scored = read_scored(read_run(run.folder))
    frame = scored.scores_of("gqa")
    gone = set(frame["id"][::3])
    left = without_leaked(scored, {"gqa": gone})
    kept = frame[~frame["id"].isin(gone)]
    assert left.values["gqa"].value == pytest.approx(100 * kept["score"].mean())
    assert left.values["gqa"].low < left.values["gqa"].value < left.values["gqa"].high
    assert left.leaked == {"gqa": len(gone)}
    # Nobody looked for mme's: neither it nor a mean that needs it has a value.
    assert set(left.values) == {"gqa"}
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_without_a_leak_the_score_and_its_interval_are_the_same() -> None:
    scored = read_scored(read_run(make_run("mini-dino").folder))
    left = without_leaked(scored, {name: set() for name in scored.benchmarks})
    assert set(left.values) == set(scored.values)
    for key, value in scored.values.items():
        own = scored.interval(key)
        assert left.values[key].value == pytest.approx(value, abs=0.006)
        assert own is not None
        assert (left.values[key].low, left.values[key].high) == pytest.approx((own.low, own.high), abs=0.05)


def test_a_group_goes_with_its_leaked_sample_and_nothing_left_is_no_value() -> None:
    run = make_run("mini-dino", benchmarks=["mmvp", "gqa"])
    scored = read_scored(read_run(run.folder))
    lines = layout("mmvp")
    first = lines[0]["group"]
    left = without_leaked(scored, {"mmvp": {str(lines[0]["id"])}, "gqa": set(scored.scores_of("gqa")["id"])})
    frame = scored.scores_of("mmvp")
    groups = frame[frame["group"] != first].groupby("group")["score"].min()
    assert left.values["mmvp"].value == pytest.approx(100 * np.mean(groups == 1))
    assert "gqa" not in left.values
    assert left.leaked["gqa"] == len(scored.scores_of("gqa"))


@pytest.mark.slow
def test_the_table_has_both_scores_of_each_benchmark(home: Path) -> None:
    run = make_run("mini-dino", benchmarks=["gqa", "chartqa"])
    ids = [str(one) for one in read_scored(read_run(run.folder)).scores_of("gqa")["id"]]
    leak("mini", "gqa", ids[:10], questions=tuple(ids[5:15]))
    table = leaks_table([read_run(run.folder)])
    by_label = {row.label: row for row in table.rows}
    assert by_label["GQA"].cells["leaked"].text == "10"
    assert by_label["GQA"].cells["without"].interval
    assert by_label["ChartQA"].cells["without"].text == "–"  # noqa: RUF001
    assert [leaks_table([read_run(run.folder)], kind=kind).rows[0].cells["leaked"].text
            for kind in ("pictures", "questions", "both", "either")] == ["10", "10", "0", "15"]  # fmt: skip
    for form in ("csv", "md", "tex", "html", "terminal"):
        assert ("without_low" if form == "csv" else "Without leaked") in render(table, form)


@pytest.mark.slow
def test_the_command_prints_it_and_names_what_is_missing(home: Path) -> None:
    run = make_run("mini-dino", benchmarks=["gqa"])
    runner = CliRunner()

    def refused(*more: str) -> str:
        result = runner.invoke(app, ["table", "--leaks", *more])
        assert result.exit_code == 2, result.output
        assert result.stderr.count("\n") == 1
        return result.stderr

    assert "`mllm-eval leaks mini`" in refused("training")
    leak("mini", "gqa", ["0"])
    leak("laion-part", "gqa", [])
    shown = runner.invoke(app, ["table", "--leaks", "training", "--runs", run.hash])
    assert shown.exit_code == 0, shown.output
    assert "looked through mini (1,000 images), copies confirmed by mini-dino" in " ".join(shown.stdout.split())
    other = runner.invoke(app, ["table", "--leaks", "laion-part"])
    assert other.exit_code == 0, other.output
    assert "laion-part" in refused("laion-parts")
    assert "known: pictures, questions, both, either" in refused("training", "--leaked", "sound")


def pair(folder: Path, number: int) -> dict[str, Any]:
    names = {"picture_thumb": f"p-{number}.webp", "image_thumb": f"c-{number}.webp"}
    for name in names.values():
        (folder / "thumbs").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 24), (number, 90, 120)).save(folder / "thumbs" / name)
    about = {"view": "mirrored", "distance": 3, "similarity": 0.987, "where": "t:1"}
    return {"picture": f"{number:064x}", "samples": [f"{number:04d}"], "n_samples": 2, **about,
            "image": f"{site_runs.EVIL}{number}.png", **names}  # fmt: skip


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that has answered GQA, whose questions are made up."""
    monkeypatch.setattr(snapshots, "load_samples", lambda one, *_: site_runs.samples(one.name, 80))
    answered: Run = site_runs.answered("mini-dino", 0.5, ["gqa"])
    return answered


@pytest.mark.slow
def test_the_report_shows_both_pictures_and_nothing_from_files_is_html(home: Path, run: Run) -> None:
    records = [read_run(run.folder)]
    plain = write_report(records, home / "site", images=False)
    assert not (plain / "leaks.html").exists()
    folder = place_of("mini", ["mini"]) / "found" / "mini"
    leak("mini", "gqa", ["0000", "0001"], [pair(folder, 1), pair(folder, 2)], ("0003",))
    site = write_report(records, home / "site", images=False)
    page = (site / "leaks.html").read_text()
    assert 'href="leaks.html"' in (site / "index.html").read_text()
    pictures = [part.partition('"')[0] for part in page.split('src="')[1:] if part.startswith("figures/leaks")]
    assert len(pictures) == 4
    assert all(Image.open(site / one).size == (32, 24) for one in pictures)
    assert site_runs.EVIL not in page
    assert "&lt;script&gt;" in page
    assert "Scores without leaked samples" in page
    # And once more: what an earlier report had is replaced.
    (folder / "gqa.json").unlink()
    assert not (write_report(records, home / "site", images=False) / "leaks.html").exists()
    assert not list(site.rglob("*.webp"))


@pytest.mark.slow
def test_the_report_shows_folders_of_images_and_training_images_that_they_hold(home: Path, run: Run) -> None:
    recipe = run.recipe.name
    folder = leak("laion-part", "gqa", ["0000", "0001", "0002"])
    leak("laion-part", "gqa", ["0000", "0001", "0002"], [pair(folder, number) for number in range(70)])
    write_json(folder.parent.parent / "corpus.json", {"identity": ["folder", "laion-part"]})
    # Of another recipe's training data, which these runs have not seen.
    other = leak("other", "gqa", ["0004"])
    write_json(other.parent.parent / "corpus.json", {"identity": ["recipe", []]})
    shared = place_of(recipe, [recipe]) / "against" / "laion-part-x"
    made = [{**pair(shared, number), "other": f"{number}.jpg"} for number in (200, 201)]
    write_jsonl(shared / "pairs.jsonl", [{key: one[key] for key in one if key != "samples"} for one in made])
    counts = Overlap(
        recipe=recipe, against="laion-part", of="x", settings=SETTINGS, images=900, broken_images=0,
        broken_images_first=(), broken_rows=0, broken_rows_first=(), others=1000, broken_others=1,
        broken_others_first=("b.png: broken",), candidates=3, looked_at=3, different=320, threshold=0.9, alarm=1 / 320,
        pairs=2, copied=2,
    )  # fmt: skip
    write_json(shared / "counts.json", counts.model_dump(mode="json"))
    # Of earlier training data by the same name.
    write_json(
        place_of(recipe, ["earlier"]) / "against" / "laion-part-x" / "counts.json", counts.model_dump(mode="json")
    )
    site = write_report([read_run(run.folder)], home / "site", images=False)
    page = (site / "leaks.html").read_text()
    assert "Found in laion-part" in page
    assert "Found in other" not in page
    assert f"of {folder.parent.parent.name}</h2>" in page
    row = page[page.index("without1-sheet") :].partition("GQA")[2].partition("</tr>")[0]
    assert ">3<" in row
    assert f"60 of 70 pairs, the most similar; all are in {folder}" in page
    assert page.count(f"Training images of {recipe} in laion-part") == 1
    assert "2 of 900 training images are among the 1,000 images of laion-part" in page
    pictures = {part.partition('"')[0] for part in page.split('src="')[1:] if part.startswith("figures/leaks")}
    assert len(pictures) == 2 * 60 + 2 * 2
    assert all(Image.open(site / one).size == (32, 24) for one in pictures)
    # One that can't be read hides none of the others.
    (folder / "gqa.json").write_text("{")
    problems: list[str] = []
    found = found_leaks(gather([read_run(run.folder)], "cambrian", True), problems)
    assert (found.folders, len(found.overlaps)) == ([], 1)
    assert [one for one in problems if one.startswith("Leaks of laion-part")] == problems != []
