"""The command `mllm-eval filter` from its options to its output, with a judge in place of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_corpus import Brightness, decisions, png, tars
from typer.testing import CliRunner, Result

from mllm_eval import filtering
from mllm_eval.catalog.level import load_level
from mllm_eval.cli.app import app
from mllm_eval.config import short_hash
from mllm_eval.filtering import FilterQuestion
from mllm_eval.filtering.deciding import META


class Model:
    """A model's names."""

    name, hash = "bright", "0123456789ab"


@pytest.fixture(autouse=True)
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Loads a judge of brightness for every model; the list grows by each load."""
    loads: list[str] = []

    def load(self: FilterQuestion) -> Any:
        loads.append(self.level.name)
        return Brightness()

    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr("mllm_eval.filtering.corpusrun.describe", dict)
    monkeypatch.setattr(filtering, "filtering_model", lambda *_: Model())
    monkeypatch.setattr(FilterQuestion, "load", load)
    return loads


def call(place: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["filter", "--images", str(place), "--model", "bright", *options])


@pytest.mark.slow
def test_decisions_and_counts_of_a_corpus(tmp_path: Path, judged: list[str]) -> None:
    done = call(tars(tmp_path / "corpus"), "--level", "heavy", "--label", "bright", "--no-report")
    assert done.exit_code == 0, done.output
    out = tmp_path / "results/filter/corpus.heavy.0123456789ab"
    assert [row["decision"] for row in decisions(out)] == ["dropped"] * 8 + ["kept"] * 7
    lines = done.stdout.splitlines()
    assert lines[0] == "15 images in 3 shards: 7 kept, 8 dropped, 0 failed"
    assert "kept: 46.7 % [24.8 %, 69.9 %]; published: 1.30 %" in lines
    assert any(line.startswith("against the labels: precision 100.0 %") for line in lines)
    assert lines[-1] == f"written: {out}"
    again = call(tmp_path / "corpus", "--level", "heavy", "--label", "bright", "--no-report", "--json")
    told = json.loads(again.stdout)
    assert (told["kept"], told["dropped"], told["out"]) == (7, 8, str(out)) and told["projection"]["a_second"] > 0
    assert judged == ["heavy"]


@pytest.mark.slow
def test_the_report_is_written(tmp_path: Path) -> None:
    done = call(tars(tmp_path / "corpus"))
    page = tmp_path / "results/filter/corpus.light.0123456789ab/report.html"
    assert done.stdout.splitlines()[-1] == f"written: {page}" and "46.7 % of 15 images kept" in page.read_text()


def test_lost_shards_are_told(tmp_path: Path) -> None:
    call(tars(tmp_path / "corpus"), "--no-report")
    (tmp_path / "corpus/00001.tar").unlink()
    lines = call(tmp_path / "corpus", "--no-report").stdout.splitlines()
    gone = tmp_path / "results/filter/corpus.light.0123456789ab/gone"
    assert lines[0].startswith("10 images in 2 shards")
    assert f"1 shards that are no longer in the corpus do not count; their files: {gone}" in lines


def test_another_column_of_images_is_another_filter(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"jpg": [png(200)], "png": [png(3)]}), path)
    assert call(path, "--image-column", "jpg", "--no-report").exit_code == 0
    refused = call(path, "--image-column", "png", "--no-report")
    assert refused.exit_code == 2 and "by image_column 'jpg', not 'png'; give another --out" in refused.stderr
    done = call(path, "--image-column", "png", "--no-report", "--out", str(tmp_path / "png"))
    assert done.stdout.startswith("1 images in 1 shards: 0 kept, 1 dropped")
    # The key alone keeps the decisions apart where filter.json has been edited.
    said = json.loads((tmp_path / "png/filter.json").read_text())
    said["filter"]["image_column"] = "jpg"
    (tmp_path / "png/filter.json").write_text(json.dumps(said))
    again = call(path, "--image-column", "jpg", "--no-report", "--out", str(tmp_path / "png"))
    assert again.stdout.startswith("1 images in 1 shards: 1 kept, 0 dropped")


def test_a_folder_by_the_column_that_was_found_is_not_taken_for_another(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"jpg": [png(200)], "mask": [png(3)]}), path)
    assert call(path, "--no-report").exit_code == 0
    refused = call(path, "--image-column", "mask", "--no-report")
    assert refused.exit_code == 2 and "by image_column None, not 'mask'" in refused.stderr


def test_keys_of_earlier_filters_stay(tmp_path: Path) -> None:
    call(tars(tmp_path / "corpus", shards=1), "--no-report")
    path = tmp_path / "results/filter/corpus.light.0123456789ab/decisions/00000.tar.parquet"
    level = load_level("light")
    expected = {"model": "bright", "hash": "0123456789ab", "level": "light", "question": level.question,
                "threshold": 0.5, "batch": 16, "by": "here"}  # fmt: skip
    assert json.loads(pq.read_metadata(path).metadata[META])["filter"] == short_hash(expected)
