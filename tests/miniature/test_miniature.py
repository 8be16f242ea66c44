"""The miniature's data: whole, deterministic, in the upstream schemas, and not to be answered without a picture."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from mllm_eval.catalog import load_benchmark, names
from mllm_eval.data.samples import Sample
from mllm_eval.data.snapshots import load_samples
from mllm_eval.errors import UserError
from mllm_eval.miniature.benchmarks import gqa, vision
from mllm_eval.miniature.benchmarks.deck import Deck, fingerprint
from mllm_eval.miniature.benchmarks.prior import prior_score
from mllm_eval.miniature.build import build, verify
from mllm_eval.miniature.further import SIDES, yes_no_pairs
from mllm_eval.miniature.training import TURNS
from mllm_eval.miniature.world import KINDS, draw
from mllm_eval.score import score_samples

BENCHMARKS = names("benchmarks")
ALIGNMENT, INSTRUCTION = 48, 120


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build(folder, alignment=ALIGNMENT, instruction=INSTRUCTION)
    return folder


@pytest.fixture
def samples(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MLLM_EVAL_DATA", str(home))
    return _samples


@cache
def _samples(name: str) -> list[Sample]:
    return load_samples(load_benchmark(name), "mini")


def rows(home: Path, pattern: str) -> list[dict[str, Any]]:
    (path,) = (home / "miniature").glob(pattern)
    return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]


def conversations(home: Path, name: str) -> list[dict[str, Any]]:
    text = (home / f"miniature/train/{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def benchmark_images(home: Path) -> Iterator[tuple[str, bytes]]:
    """(benchmark's folder, encoded image) of everything that any of the 16 holds."""
    for path in (home / "miniature").rglob("*.jpg"):
        yield "MMVP", path.read_bytes()
    for path in (home / "miniature").rglob("*.parquet"):
        table = pq.read_table(path)
        for column in table.column_names:
            for value in table[column].to_pylist():
                for cell in value if isinstance(value, list) else [value]:
                    if isinstance(cell, dict) and "bytes" in cell:
                        yield str(path.relative_to(home / "miniature").parent), cell["bytes"]


@pytest.mark.slow
def test_no_image_of_a_benchmark_occurs_in_training_or_in_another_benchmark(home: Path) -> None:
    training = [path.read_bytes() for path in (home / "miniature/train/images").rglob("*.png")]
    assert len(training) == ALIGNMENT + INSTRUCTION
    bytes_seen = {hashlib.sha256(data).digest() for data in training}
    pixels_seen = {fingerprint(Image.open(io.BytesIO(data)).convert("RGB")) for data in training}
    assert len(pixels_seen) == len(training)
    owner: dict[bytes, str] = {}
    for name, data in benchmark_images(home):
        key = fingerprint(Image.open(io.BytesIO(data)).convert("RGB"))
        assert hashlib.sha256(data).digest() not in bytes_seen
        assert key not in pixels_seen
        assert owner.setdefault(key, name) == name
    assert len(owner) > 1500


def test_a_picture_that_was_drawn_before_is_drawn_anew() -> None:
    fresh = Deck("bench-x", set()).draw("scene").image
    taken = {fingerprint(fresh)}
    deck = Deck("bench-x", taken)
    assert fingerprint(deck.draw("scene").image) != fingerprint(fresh)
    assert len(taken) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_loads_as_a_snapshot_of_the_hub(name: str, samples: Any) -> None:
    found = samples(name)
    assert 60 <= len(found) <= 200
    assert len({sample.id for sample in found}) == len(found)
    assert all(len(sample.images) == 1 and sample.target for sample in found)
    image = found[0].images[0].load()
    assert image.mode == "RGB" and max(image.size) == 112


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_wording_of_a_question_does_not_tell_its_answer(name: str, home: Path, samples: Any) -> None:
    chance = json.loads((home / "miniature/chance.json").read_text())[name]
    found = [sample for sample in samples(name) if "000000" not in sample.id or name != "mmbench_en"]
    if name == "mmbench_en":
        # Its rotations repeat a question, so only the first of each can say what a guesser would know.
        found = [sample for sample in found if int(sample.id) < 1_000_000]
    asked = [(sample.prompt, gold(sample)) for sample in found]
    assert 100 * prior_score(asked) <= chance + 12


def gold(sample: Sample) -> str:
    """The answer as a model would give it."""
    if sample.benchmark == "ai2d":
        return "ABCD"[int(sample.target)]
    if sample.benchmark == "mathvista" and sample.record["choices"]:
        return "ABCD"[sample.record["choices"].index(sample.target)]
    return Counter(sample.target.split(" | ")).most_common(1)[0][0].strip("()")


def test_the_prior_of_lopsided_questions_is_found() -> None:
    lopsided = [(f"What color is the {shape}?", "red") for shape in ("circle", "star", "ring") * 5]
    assert prior_score(lopsided) == 1.0
    listed = [
        ("Which?\nA. red\nB. blue\nC. ring", "A"),
        ("Which?\nA. star\nB. red\nC. blue", "B"),
        ("Which?\nA. cross\nB. ring\nC. red", "C"),
    ] * 4
    assert prior_score(listed) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("rules", ["cambrian", "robust"])
def test_the_right_answers_score_full_marks(name: str, rules: str, samples: Any) -> None:
    found = samples(name)
    scores = score_samples(load_benchmark(name), rules, found, {s.id: gold(s) for s in found})
    assert min(score.score or 0.0 for score in scores) >= 0.99


def test_columns_and_types_are_the_hubs(home: Path) -> None:
    from datasets import Image as ImageFeature
    from datasets import List, load_dataset

    folder = home / "miniature"
    files = {"SEED-Bench/default/test": "image", "MMMU/default/validation": "image_2", "ai2d/default/test": "image"}
    for file, column in files.items():
        path = str(folder / f"{file}-00000-of-00001.parquet")
        data = load_dataset("parquet", data_files=path, split="train", cache_dir=str(home / "cache"))
        kind = data.features[column]
        assert isinstance(kind.feature if isinstance(kind, List) else kind, ImageFeature)
    assert [f.name for f in pq.read_schema(folder / "ai2d/default/test-00000-of-00001.parquet")] == [
        "question",
        "options",
        "answer",
        "image",
    ]


def test_mme_asks_every_image_once_yes_and_once_no(home: Path) -> None:
    found = rows(home, "MME/*/*.parquet")
    assert len({row["category"] for row in found}) == 14
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert first["question_id"] == second["question_id"] and first["image"] == second["image"]
        assert {first["answer"], second["answer"]} == {"Yes", "No"} and first["question"] != second["question"]


def test_mmbench_turns_the_options_of_a_question_through_all_places(home: Path) -> None:
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in rows(home, "MMBench_EN/*/*.parquet"):
        groups.setdefault(row["index"] % 1_000_000, []).append(row)
    assert len(groups) >= 40
    for group in groups.values():
        options = [[row[x] for x in "ABCD" if row[x] != "nan"] for row in group]
        assert len(group) == len(options[0])
        assert len({row[row["answer"]] for row in group}) == 1
        assert {row["answer"] for row in group} == set("ABCD"[: len(group)])


def test_peculiar_rows_are_there(home: Path, samples: Any) -> None:
    seed = rows(home, "SEED-Bench/*/*.parquet")
    assert sum(len(row["image"]) > 1 for row in seed) == 5 and len(seed) == len(samples("seed")) + 5
    science = rows(home, "ScienceQA/*/*.parquet")
    assert sum(row["image"] is None for row in science) == 20 and len({len(r["choices"]) for r in science}) == 3
    mmmu = rows(home, "MMMU/*/*.parquet")
    assert any('"I don\'t know"' in row["options"] for row in mmmu)
    assert any(row["image_2"] for row in mmmu) and {row["question_type"] for row in mmmu} == {"multiple-choice", "open"}
    math = rows(home, "MathVista/*/*.parquet")
    assert {row["answer_type"] for row in math} == {"text", "integer", "float", "list"}
    assert {row["precision"] for row in math} == {None, 2.0}
    text = rows(home, "textvqa/*/*.parquet")
    assert all(len(row["answers"]) == 10 and len(row["ocr_tokens"]) == 4 for row in text)
    assert any(len(set(row["answers"])) > 1 for row in text)
    assert len({row["question_type"] for row in rows(home, "OCRBench/*/*.parquet")}) == 10
    assert Counter(row["source"] for row in rows(home, "CV-Bench/2D/*.parquet")) == {"ADE20K": 84, "COCO": 84}


def test_twins_differ_in_one_thing_and_answer_differently() -> None:
    for kind, change, _ in vision.PAIRS:
        for first, second, text, a, b in vision.twins_of(Deck("test", set()), kind, change, 3):
            assert a != b
            answers = [{q.text: q.answer for q in picture.questions} for picture in (first, second)]
            for told, answer in zip(answers, (a, b), strict=True):
                assert told.get(text, answer) == answer
            pixels = [picture.image.tobytes() for picture in (first, second)]
            same = sum(x == y for x, y in zip(*pixels, strict=True)) / len(pixels[0])
            assert 0.5 < same < 1.0


def test_further_questions_agree_with_the_pictures_own() -> None:
    compared = 0
    for kind in KINDS:
        for index in range(40):
            picture = draw("agree", index, kind)
            own = {question.text: question.answer for question in picture.questions}
            told = {q.text: q.answer for pair in yes_no_pairs(picture, Random(index)).values() for q in pair}
            if kind == "scene":
                told |= {text: answer for _, text, answer in gqa.questions(picture)}
            common = own.keys() & told.keys()
            # The world also asks where things are that stand on a diagonal; those have no one answer here.
            assert all(own[text] == told[text] for text in common)
            compared += len(common)
    assert compared > 300


def test_a_relation_is_only_asked_where_it_has_one_answer(samples: Any) -> None:
    relations = [sample.record for sample in samples("seed") if sample.record["question_type_id"] == 6]
    assert relations and all({record[f"choice_{x}"] for x in "abcd"} == set(SIDES) for record in relations)


def test_training_rows_are_cambrians(home: Path) -> None:
    for name, size in (("alignment", ALIGNMENT), ("instruction", INSTRUCTION)):
        found = conversations(home, name)
        assert len(found) == size
        assert set(Counter(row["id"].split("-")[1] for row in found).values()) == {size // len(KINDS)}
        for row in found:
            said = row["conversations"]
            assert [turn["from"] for turn in said] == ["human", "gpt"] * (len(said) // 2)
            assert 1 <= len(said) // 2 <= TURNS
            assert said[0]["value"].startswith("<image>\n")
            assert all("<image>" not in turn["value"] for turn in said[1:])
            assert (home / "miniature/train/images" / row["image"]).is_file()
    assert all(
        row["conversations"][0]["value"] == "<image>\nDescribe the image." for row in conversations(home, "alignment")
    )


def test_a_second_build_finds_everything_made(home: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("made again")

    before = (home / "miniature/SHA256SUMS").stat().st_mtime_ns
    assert build(home, refuse, ALIGNMENT, INSTRUCTION) == home / "miniature"
    assert (home / "miniature/SHA256SUMS").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_build_is_the_same_bytes_again_and_leaves_nothing_when_interrupted(home: Path, tmp_path: Path) -> None:
    def interrupt(what: str, *_: int) -> None:
        if what == "benchmarks":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, interrupt, ALIGNMENT, INSTRUCTION)
    assert [path.name for path in tmp_path.iterdir()] == [".miniature.lock"]
    again = build(tmp_path, alignment=ALIGNMENT, instruction=INSTRUCTION)
    assert (again / "SHA256SUMS").read_bytes() == (home / "miniature/SHA256SUMS").read_bytes()
    verify(again)
    changed = again / "MMVP/Questions.csv"
    changed.write_text("")
    with pytest.raises(UserError, match=r"Questions\.csv: missing or changed"):
        verify(again)
    changed.unlink()
    build(again.parent, alignment=ALIGNMENT, instruction=INSTRUCTION)
    verify(again)


def test_building_needs_no_torch() -> None:
    code = "import sys, mllm_eval.miniature.build; sys.exit(bool({'torch', 'datasets', 'pandas'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
