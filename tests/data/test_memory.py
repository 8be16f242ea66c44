"""What a benchmark's questions, answers and scores take in memory: 63,000 questions are to fit in 156 MiB."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from opened import opened
from own_benchmark import YAML
from parquet_rows import png, unpinned, write_mini
from peak_memory import held

from mllm_eval.answers import Answer, Journal, open_answers
from mllm_eval.catalog import load_benchmark
from mllm_eval.catalog.variant import BLIND, VariantKey
from mllm_eval.cli.benching import run_timings
from mllm_eval.data import images, snapshots
from mllm_eval.data.samples import Sample, Samples, shown
from mllm_eval.data.snapshots import load_samples
from mllm_eval.errors import UserError
from mllm_eval.score import score_samples, summarize

ROWS = 1500
# Bytes of memory that a question may take with all that is read of it.
MOST = 156 * 2**20 / 63_000
# As long as the questions of the sixteen benchmarks are on average, options included.
LONG = "a question of so many words as they have " * 4


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path))
    images.columns.clear()
    yield tmp_path
    snapshots.recent.clear()


def row(number: int) -> dict[str, Any]:
    facts = {"questionId": str(number), "question": f"What is {number}? {LONG}", "answers": [LONG, str(number)]}
    return {**facts, "image": png(number // 3)}


def an_answer(number: int, text: str = LONG) -> Answer:
    return Answer(str(number), "p" * 16, ("i" * 16,), text, 100, 3)


@pytest.mark.slow
def test_questions_fit_in_memory_without_their_images(home: Path) -> None:
    benchmark = unpinned("docvqa")
    write_mini(home, benchmark, [row(number) for number in range(ROWS)])

    def read() -> Sequence[Sample]:
        snapshots.recent.clear()
        return load_samples(benchmark, "mini")

    samples, taken = held(read)
    assert isinstance(samples, Samples) and len(samples) == ROWS
    assert taken < MOST * ROWS
    last = samples[-1]
    assert last.record["answers"] == [LONG, str(ROWS - 1)] and last.target.endswith(str(ROWS - 1))
    assert last.images[0].load().size == (6, 4) and [one.id for one in samples[:2]] == ["0", "1"]
    assert [one.cluster for one in samples][3:6] == [samples[3].images[0].sha256[:16]] * 3
    assert [one.sha256 for one in shown([samples])] == list(dict.fromkeys(s.images[0].sha256 for s in samples))


def test_variants_read_the_rows_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = unpinned("docvqa")
    write_mini(home, benchmark, [row(number) for number in range(9)])
    own = load_samples(benchmark, "mini")
    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "read_samples", lambda *_: pytest.fail("read again"))
        blind, shuffled = (load_samples(benchmark, "mini", variant) for variant in (BLIND, VariantKey("shuffled")))
    assert not any(sample.images for sample in blind) and [s.cluster for s in blind] == [s.cluster for s in own]
    assert all(one.images[0].sha256 != other.images[0].sha256 for one, other in zip(own, shuffled, strict=True))
    write_mini(home, benchmark, [row(number) for number in range(6)])
    assert len(load_samples(benchmark, "mini", BLIND)) == 6


def test_images_beside_a_csv_are_read_once_until_one_changes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "mine"
    (folder / "images").mkdir(parents=True)
    files = [folder / "images" / f"{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(png(number)["bytes"])
    lines = [f"{number}.png,What is {number}?,{number}" for number in range(3)]
    (folder / "questions.csv").write_text("\n".join(["image,question,answer", *lines]) + "\n")
    (home / "benchmarks/own").mkdir(parents=True)
    (home / "benchmarks/own/benchmark.yaml").write_text(YAML)
    monkeypatch.setenv("MLLM_EVAL_PATH", str(home))
    benchmark = load_benchmark("own")
    with opened() as counts:
        samples = load_samples(benchmark, "mine")
        blind, again = load_samples(benchmark, "mine", BLIND), load_samples(benchmark, "mine")
    assert {str(file): counts[str(file)] for file in files} == {str(file): 1 for file in files}
    assert again == samples and [one.id for one in blind] == ["0", "1", "2"]
    files[1].write_bytes(png(7)["bytes"])
    changed = load_samples(benchmark, "mine")
    assert [one.images[0].sha256 == other.images[0].sha256 for one, other in zip(samples, changed, strict=True)] == [
        True, False, True,
    ]  # fmt: skip
    files[2].unlink()
    with pytest.raises(UserError, match=r"questions\.csv row 3: its image .*2\.png is missing"):
        load_samples(benchmark, "mine")


@pytest.mark.slow
def test_answers_fit_in_memory_and_stay_what_was_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "docvqa.jsonl")
    journal.append([an_answer(number) for number in range(ROWS)])
    journal.append([an_answer(7, "mended")])
    done, taken = held(lambda: Journal(journal.path).done())
    assert taken < MOST / 2 * ROWS
    assert len(done) == ROWS and done["7"].text == "mended" and done[str(ROWS - 1)].text == LONG
    assert [one.id for one in done.values()] == list(done) == [str(number) for number in range(ROWS)]
    assert "none" not in done and done.get("none") is None
    journal.finish(str(number) for number in reversed(range(ROWS)))
    # What was opened before stays what it was.
    assert done["7"].text == "mended" and next(iter(open_answers(journal.path))) == str(ROWS - 1)


def test_a_repeated_id_is_told_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "docvqa.jsonl"
    path.write_text("".join(an_answer(number, "x").line() for number in (1, 2, 3, 2)))
    with pytest.raises(UserError, match=r"docvqa.jsonl:4: sample '2' was answered in line 2 already"):
        open_answers(path)


@pytest.mark.slow
def test_scores_fit_in_memory(home: Path) -> None:
    benchmark = unpinned("docvqa")
    write_mini(home, benchmark, [row(number) for number in range(ROWS)])
    samples = load_samples(benchmark, "mini")
    texts = {str(number): str(number if number % 2 else number + 1) for number in range(ROWS) if number != 4}
    scores, taken = held(lambda: score_samples(benchmark, "cambrian", samples, texts))
    assert taken < MOST / 4 * ROWS
    whole = summarize(benchmark, "cambrian", list(samples), list(scores))
    assert asdict(summarize(benchmark, "cambrian", samples, scores)) == asdict(whole)
    assert whole.n_failed == 1 and whole.reported["total"] == ROWS - 1 and scores[4].score is None


@pytest.mark.slow
def test_memory_and_growth_are_measured(tmp_path: Path) -> None:
    out = tmp_path / "growth.json"
    quick = ["--of", "questions", "--rounds", "1", "--most", "1"]
    assert run_timings(["growth"], [*quick, "--out", str(out), "--plots", str(tmp_path)])
    assert [row["value"] for row in json.loads(out.read_text())["rows"]] == [1]
    assert "this engine" in (tmp_path / "growth-questions.svg").read_text()
    assert run_timings(["memory"], ["--sizes", "40,80", "--out", str(out)])
    first, second = json.loads(out.read_text())["rows"]
    assert (first["questions"], second["questions"]) == (40, 80)
    assert second["times_the_first"] == pytest.approx(second["peak_mib"] / first["peak_mib"])
