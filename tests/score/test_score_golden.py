"""Every answer whose score by the paper's own code is known, and whole files of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from places import GOLDEN
from summaries import score_file

from mllm_eval.catalog import load_benchmark, names
from mllm_eval.data.prompts import show_prompts
from mllm_eval.errors import UserError
from mllm_eval.score import load_scorer

BENCHMARKS = [name for name in names("benchmarks") if (GOLDEN / f"{name}.jsonl").is_file()]
# What the original makes of files that lost, repeated or shuffled lines is its fault, not the rule.
FAULTY = {"one_line_lost", "pair_split_by_other_category", "missing_base_row", "first_line_missing"}
FAULTY |= {"odd_total_trailing_single_right"}
BY_IDS = {"not_adjacent_mixed_shuffled": 50.0}


def lines_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (GOLDEN / name).read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_all_sixteen_have_golden_answers() -> None:
    assert len(BENCHMARKS) == 16


@pytest.mark.parametrize("name", BENCHMARKS)
def test_cambrian_scores_are_the_originals(name: str, tmp_path: Path) -> None:
    golden = lines_of(f"{name}.jsonl")
    answers = [{key: line[key] for key in ("id", "record", "prediction")} for line in golden]
    summary = score_file(name, write(tmp_path / "a.jsonl", answers), out=tmp_path / "s.jsonl", partial=True)
    scores = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [score["id"] for score in scores] == [line["id"] for line in golden]
    assert summary.n == len(golden) and summary.n_failed == 0
    for line, score in zip(golden, scores, strict=True):
        if line["cambrian_error"]:
            assert (score["score"], bool(score["note"])) == (0.0, True), line["id"]
        else:
            # DocVQA has no local scorer in the original; its golden value is the challenge's formula.
            wanted = line["cambrian"] if line["cambrian"] is not None else line["lmms_eval"]
            assert score["score"] == pytest.approx(wanted, abs=1e-6), line["id"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_robust_rules_take_every_golden_answer(name: str) -> None:
    rule = load_scorer(load_benchmark(name)).rules["robust"]
    for line in lines_of(f"{name}.jsonl"):
        score, parsed, note = rule(line["record"], line["prediction"])
        assert score is not None and 0.0 <= score <= 1.0, line["id"]
        assert isinstance(note, str) and (parsed is None or parsed), line["id"]


def flat(numbers: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in numbers.items():
        name = f"{above}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def cases() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for path in sorted(GOLDEN.glob("*.aggregate.json")):
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]:
            if case["items"]:
                name = path.name.split(".")[0]
                if name == "cvbench":
                    name = f"cvbench_{case['items'][0]['record']['type'].lower()}"
                found.append((name, case))
    return found


@pytest.mark.parametrize(("name", "case"), cases(), ids=lambda v: v if isinstance(v, str) else v["name"])
def test_whole_files_give_the_originals_numbers(name: str, case: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"id": str(i), **item} for i, item in enumerate(case["items"])]
    path = write(tmp_path / "a.jsonl", rows)
    if case["name"] in FAULTY:
        with pytest.raises(UserError, match="--partial"):
            score_file(name, path)
        assert score_file(name, path, partial=True).partial
        return
    summary = score_file(name, path)
    assert not summary.partial
    if case["name"] in BY_IDS:
        assert summary.value == pytest.approx(BY_IDS[case["name"]])
        return
    if case.get("cambrian_error"):
        assert summary.value == 0.0
        return
    if name == "docvqa":
        assert summary.value == pytest.approx(100 * case["lmms_eval"]["anls"])
        return
    reported, wanted = summary.reported, case["cambrian"]
    for key, number in flat(wanted).items():
        assert flat(reported)[key] == pytest.approx(number), key
    official = case.get("official_formula_on_cambrian_hits_x100")
    known = case.get("cambrian_reported") or flat(wanted).get("total_accuracy.accuracy", wanted.get("accuracy"))
    value = next(iter(official.values())) if official else known
    assert value is not None and summary.value == pytest.approx(value)


@pytest.mark.parametrize("number", range(len(lines_of("prompts.jsonl"))))
def test_prompts_are_the_originals_byte_for_byte(number: int, tmp_path: Path) -> None:
    line = lines_of("prompts.jsonl")[number]
    records = write(tmp_path / "r.jsonl", [{"record": line["record"]}])
    (shown,) = show_prompts(line["benchmark"], records, line["template"])
    assert json.loads(shown) == {"prompt": line["prompt"]}
    benchmark = load_benchmark(line["benchmark"])
    assert benchmark.generation.max_new_tokens == line["generation"]["max_new_tokens"]
