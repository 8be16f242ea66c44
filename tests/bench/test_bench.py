"""`mllm-eval bench`: what it lists, what it refuses, and that a timing leaves its numbers."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from mllm_eval.catalog import paper_benchmarks
from mllm_eval.cli.benching import folder, run_timings, timings
from mllm_eval.errors import UserError

sys.path.insert(0, str(folder()))
from harness import markdown


@pytest.mark.slow
def test_every_timing_says_what_it_times_and_hides_no_module_of_python() -> None:
    assert {"scoring", "generation", "commands", "pipeline"} <= set(timings())
    assert all(len(about) > 20 and about.endswith(".") for about in timings().values())
    # Its folder comes first on a script's path: a name of the standard library would hide that module.
    assert not set(sys.stdlib_module_names) & {path.stem for path in folder().glob("*.py")}


def test_unknown_timings_and_options_without_one_are_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'scoring'"):
        run_timings(["scorring"], [])
    with pytest.raises(UserError, match="belong to one timing"):
        run_timings([], ["--answers", "3"])


@pytest.mark.slow
def test_scoring_is_timed_for_all_sixteen_under_both_rule_sets(tmp_path: Path) -> None:
    out = tmp_path / "scoring.json"
    assert run_timings(["scoring"], ["--answers", "200", "--out", str(out)])
    found = json.loads(out.read_text())
    *rows, total = found["rows"]
    assert [row["benchmark"] for row in rows] == list(_asked()) and set(_asked()) == set(paper_benchmarks())
    assert total["answers"] == sum(row["answers"] for row in rows) >= 200
    assert total["robust_cpu_seconds"] == pytest.approx(sum(row["robust_cpu_seconds"] for row in rows))
    assert found["environment"] and found["settings"]["answers"] == total["answers"]
    assert not run_timings(["scoring"], ["--no-such-option"])


def _asked() -> dict[str, int]:
    tree = ast.parse((folder() / "scoring.py").read_text())
    node = next(n for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "ASKED")
    parts: list[dict[str, int]] = [ast.literal_eval(part) for part in node.value.values]  # type: ignore[attr-defined]
    return {name: size for part in parts for name, size in part.items()}


@pytest.mark.slow
def test_generation_gives_the_answers_of_the_plain_way(tmp_path: Path) -> None:
    out = tmp_path / "generation.json"
    assert run_timings(["generation"], ["--quick", "--rounds", "1", "--threads", "1", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["questions"], row["images"]) for row in rows] == [(10, 2), (6, 3), (4, 4)] * 2
    assert all(row["same_answers"] == row["compared"] == row["questions"] for row in rows)
    assert all(row["distinct_answers"] > 1 for row in rows) and all(row["cold_seconds"] > 0 for row in rows[:3])
    # Of pictures of many shapes: on a 4 x 4 grid two photographs have four row tokens more, a broad one two rows.
    shapes = rows[3:]
    assert all(row["speed_a_position"] > 0 for row in shapes)
    assert [row["hidden_positions"] - row["shown_positions"] for row in shapes] == [8, 2, 6]


@pytest.mark.slow
def test_sixteen_counts_operations_and_gives_the_answers_of_the_plain_way(tmp_path: Path) -> None:
    out = tmp_path / "sixteen.json"
    assert run_timings(["sixteen"], ["--quick", "--rounds", "1", "--threads", "1", "--out", str(out)])
    cold, warm = json.loads(out.read_text())["rows"]
    assert cold["same_answers"] == cold["questions"] > cold["images"] == 8
    assert cold["encoder_gflop"] > 0 == warm["encoder_gflop"] and cold["heads_gflop"] == warm["heads_gflop"] > 0
    assert 0 < cold["of_peak"] < 1


@pytest.mark.slow
def test_the_timing_of_52_heads_holds_their_weights_to_those_of_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    from mllm_eval.probes.grid import Heads

    spec = importlib.util.spec_from_file_location("bench_probes", folder() / "probes.py")
    assert spec is not None and spec.loader is not None
    timing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(timing)
    row = timing.heads("tiny", 16, 8, 4, 3, 6, 1)
    assert row["largest_gap"] < timing.LARGEST_GAP and row["times_cpu"] > 0
    plain = Heads.step
    # The schedule of another training, which is a step behind.
    monkeypatch.setattr(Heads, "step", lambda self, x, y, done: plain(self, x, y, max(0.0, done - 1 / 6)))
    with pytest.raises(AssertionError, match="tiny: weights of the two ways differ by"):
        timing.heads("tiny", 16, 8, 4, 3, 6, 1)


def test_a_table_of_a_timing_is_made_for_the_documents(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"rows": [{"way": "cold", "seconds": 1.23456, "n": 3}]}))
    assert markdown(tmp_path / "a.json", ["way", "seconds"]) == "| way | seconds |\n| --- | --- |\n| cold | 1.23 |"
