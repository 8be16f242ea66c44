"""A part of the questions, asked and shown apart from the whole: which are chosen, and where their answers go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import made_runs
import pytest
import torch
from places import TINY_RECIPE
from typer.testing import CliRunner

from mllm_eval import pipeline
from mllm_eval.answers import read_answers
from mllm_eval.catalog import load_benchmark
from mllm_eval.catalog.benchmark import answers_variant
from mllm_eval.catalog.folders import paper_benchmarks
from mllm_eval.catalog.variant import DEFAULT, VariantKey, size_of_table
from mllm_eval.cli.app import app
from mllm_eval.data.samples import Sample
from mllm_eval.data.snapshots import load_samples
from mllm_eval.disk import sum_note
from mllm_eval.errors import UserError
from mllm_eval.model.vlm import VLM
from mllm_eval.pipeline.selection import asked_samples, stratum_of, subset_words
from mllm_eval.report import choice, comparison, read_scored
from mllm_eval.report.sizing import thinned
from mllm_eval.results import read_run
from mllm_eval.run import Run

SIZE = 640
BENCHMARKS = ["gqa"]
PART = "default@640"


@pytest.fixture(scope="module")
def both(tiny_home: Path) -> Iterator[Run]:
    """A run that was asked a subset, then everything."""
    run = pipeline.evaluate("tiny-dinov2", TINY_RECIPE, benchmarks=BENCHMARKS, subset=SIZE // 16)
    yield run


def test_a_subset_has_a_name_of_its_own() -> None:
    for text, key in (
        ("blind@1000", VariantKey("blind", 1000)),
        ("default", VariantKey()),
        ("no_ocr_tokens", VariantKey("no_ocr_tokens")),
        ("odd@name@20", VariantKey("odd@name", 20)),
        ("", VariantKey("")),
    ):
        assert VariantKey.parse(text) == key and str(key) == text
    assert str(VariantKey("default", 40).named("blind")) == "blind@40"
    with pytest.raises(UserError, match="16 or more"):
        VariantKey.of("default", 5)
    assert size_of_table(1000, None) == size_of_table(1000, paper_benchmarks()) == 1000
    assert (size_of_table(None, ["gqa"]), size_of_table(40, ["gqa"]), size_of_table(81, ["gqa", "mme"])) == (
        None, 640, 648,
    )  # fmt: skip
    with pytest.raises(UserError, match="a subset of 1 leaves some of 2 benchmarks without questions"):
        size_of_table(1, ["gqa", "mme"])
    assert answers_variant(load_benchmark("mmmu"), VariantKey("paper_prompt", 1000), "hub") == VariantKey(
        "default", 1000
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mme", "mmvp", "mmbench_en", "cvbench_2d", "gqa"])
def test_images_pairs_and_circular_groups_stay_whole(tiny_home: Path, name: str) -> None:
    benchmark = load_benchmark(name)
    everything, part = (asked_samples(benchmark, "mini", variant) for variant in (DEFAULT, VariantKey.parse(PART)))
    chosen = {sample.id for sample in part}
    assert 0 < len(part) < len(everything) and [s.id for s in everything if s.id in chosen] == [s.id for s in part]
    for key in ("cluster", "group"):
        inside = {getattr(one, key) for one in part}
        assert not inside & {getattr(one, key) for one in everything if one.id not in chosen}
    assert {one.id for one in asked_samples(benchmark, "mini", VariantKey("blind", SIZE))} == chosen
    assert chosen <= {one.id for one in asked_samples(benchmark, "mini", VariantKey("default", 1280))}


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [["ocrbench"], ["gqa", "ocrbench", "chartqa"]])
def test_a_subset_of_chosen_benchmarks_asks_so_many_of_those(tiny_home: Path, chosen: list[str]) -> None:
    size = 96
    variant = VariantKey.of("default", size_of_table(size, chosen))
    asked = [len(asked_samples(load_benchmark(name), "mini", variant)) for name in chosen]
    # Images stay whole, so that it is near the size; a sixteenth of it for each would be 6.
    assert 0.75 * size <= sum(asked) <= 1.25 * size and min(asked) >= 0.75 * size // len(chosen)


@pytest.mark.slow
def test_what_is_asked_is_what_the_statistics_count(both: Run, tiny_home: Path) -> None:
    whole = pipeline.evaluate("tiny-dinov2", TINY_RECIPE, benchmarks=BENCHMARKS)
    counted = thinned(read_scored(read_run(whole.folder)), SIZE)
    for name in BENCHMARKS:
        asked = [one.id for one in read_answers(both.answers_path(name, PART))]
        assert sorted(asked) == sorted(counted[name].frame["id"])
        assert len(asked) < len(load_samples(load_benchmark(name), "mini"))
    part = read_scored(read_run(both.folder), variant=VariantKey.parse(PART))
    for name, one in counted.items():
        assert part.values[name] == pytest.approx(one.units.value)


@pytest.mark.slow
def test_everything_takes_the_answers_of_the_part(both: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BENCHMARKS:
        both.answers_path(name).unlink(missing_ok=True)
    path = both.answers_path("gqa", PART)
    told = path.read_text(encoding="utf-8").splitlines()
    spoken = [line.replace('"text": "', '"text": "told before: ', 1) for line in told]
    path.write_text("\n".join(spoken) + "\n", encoding="utf-8")
    sum_note(path).unlink()
    pipeline.evaluate("tiny-dinov2", TINY_RECIPE, benchmarks=BENCHMARKS)
    answers = read_answers(both.answers_path("gqa"))
    assert sum(one.text.startswith("told before: ") for one in answers) == len(told) < len(answers)

    def refuse(*_: object, **__: object) -> torch.Tensor:
        raise AssertionError("a part of finished answers needs no model")

    monkeypatch.setattr(VLM, "forward", refuse)
    pipeline.evaluate("tiny-dinov2", TINY_RECIPE, benchmarks=["gqa"], subset=10)
    part = read_answers(both.answers_path("gqa", "default@160"))
    assert part and all(one.text.startswith("told before: ") for one in part)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("results")
def test_rows_of_a_part_and_of_the_whole_stay_apart() -> None:
    runs = [made_runs.make_run(name, benchmarks=["gqa"]) for name in ("mini-dino", "mini-clip")]
    for name in ("mini-dino", "mini-clip"):
        made_runs.make_run(name, benchmarks=["gqa"], variant=PART)
    records = [read_run(run.folder) for run in runs]
    assert {row.facts["subset"] for row in comparison(records).rows} == {""}
    table = comparison(records, variants=[VariantKey.parse(PART)])
    assert [row.label for row in table.rows] == ["mini-dino (subset of 640)", "mini-clip (subset of 640)"]
    assert all(row.cells["gqa"].interval for row in table.rows) and any("Subset of 640" in one for one in table.notes)
    mixed = comparison(records, variants=[DEFAULT, VariantKey.parse(PART)])
    assert [row.group for row in mixed.rows] == ["All questions"] * 2 + ["Subset of 640"] * 2
    assert mixed.sentences and all(one.count("(subset of 640)") in (0, 2) for one in mixed.sentences)


@pytest.mark.slow
@pytest.mark.usefixtures("results")
def test_a_run_without_the_part_is_named() -> None:
    run, other = (made_runs.make_run(name, benchmarks=["gqa"]) for name in ("mini-dino", "mini-clip"))
    made_runs.make_run("mini-dino", benchmarks=["gqa"], variant=PART)
    chosen = choice.choose_one_recipe(
        [read_run(run.folder), read_run(other.folder)], "cambrian", variants=[VariantKey.parse(PART)]
    )
    assert [one.hash for one in chosen.runs] == [run.hash]
    assert other.hash in chosen.left_out[0] and "subset of 640" in chosen.left_out[0]
    found = CliRunner().invoke(app, ["table", "--runs", "mini-clip", "--subset", "640"])
    assert found.exit_code == 2 and "--subset 640" in found.output + (found.stderr or "")
    shown = CliRunner().invoke(app, ["table", "--subset", "640"])
    assert "mini-dino (subset of 640)" in shown.output and "mini-clip (" not in shown.output
    assert "mini-clip" in CliRunner().invoke(app, ["table"]).output


@pytest.mark.slow
@pytest.mark.usefixtures("results")
def test_a_run_that_was_asked_a_part_alone_is_not_in_the_table_of_all() -> None:
    _, other = (made_runs.make_run(name, benchmarks=["gqa"]) for name in ("mini-dino", "mini-clip"))
    made_runs.make_run("mini-clip", benchmarks=["gqa"], variant=PART)
    for path in other.folder.glob("scores/gqa.[cr]*"):
        path.unlink()
    shown = CliRunner().invoke(app, ["table"])
    assert shown.exit_code == 0 and f"Left out: {other.hash}" in " ".join(shown.output.split()), shown.output


def test_a_stratum_is_the_value_of_the_field_that_the_benchmark_names() -> None:
    def sample(**record: object) -> Sample:
        return Sample("b", "1", (), "", "", "", "", record)

    named, unnamed = load_benchmark("cvbench_2d"), load_benchmark("gqa")
    assert stratum_of(named, sample(source="ADE20K")) == "ADE20K"
    assert stratum_of(named, sample(source=7)) == "7"
    assert stratum_of(named, sample()) is None
    assert stratum_of(unnamed, sample(source="ADE20K")) is None


def test_a_subset_of_some_benchmarks_is_said_for_each() -> None:
    assert subset_words(81, 648, 2) == (
        "a subset of 81 of 2 benchmarks is 40 of each, as the table's subset of 648 has them; `--subset 648` shows its "
        "rows"
    )
