"""The report of a filtered corpus and the command around it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_corpus import Brightness, filtered, png, sample, tar, tars
from typer.testing import CliRunner

from mllm_eval.catalog.level import Level, load_level
from mllm_eval.cli.app import app
from mllm_eval.errors import UserError
from mllm_eval.filtering import open_corpus
from mllm_eval.filtering.agreement import agreement, share
from mllm_eval.filtering.corpusrun import Spent
from mllm_eval.filtering.page import write_page
from mllm_eval.filtering.tally import SHOWN, NearThreshold, Tally
from mllm_eval.filtering.throughput import project


def write(place: Path, out: Path, level: Level | None = None, label: str | None = None) -> str:
    """The page of a corpus filtered by brightness."""
    about = {"question": "<b>Bright?</b>", "threshold": 0.5, "label": label}
    made = filtered(place, out, config=about, label=label)
    return write_page(made, open_corpus(place), level or load_level("light"), project(made, None)).read_text()


@pytest.mark.slow
def test_one_file_says_all(tmp_path: Path) -> None:
    page = write(tars(tmp_path / "in", shards=4, each=8), tmp_path / "out", label="bright")
    assert "50.0 % of 32 images kept" in page and "50.3 %" in page
    assert page.count("data:image/jpeg;base64,") == 2 * SHOWN
    assert "precision" in page and "100.0 %" in page and "calibration error" in page
    assert "GiB: decisions" in page and "of this machine" in page
    # Nothing is loaded from elsewhere: pictures and styles stand in the page.
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page) and "<script" not in page
    assert not re.search(r"url\((?!#)", page) and "default-src 'none'" in page


@pytest.mark.slow
def test_every_text_of_a_file_is_escaped(tmp_path: Path) -> None:
    sly = "<img src=x onerror=alert(1)>"
    members = [*sample(f"a{sly}", 200), (f"b{sly}.png", b"no image"), *sample(f"c{sly}&amp;", 10)]
    page = write(Path(tar(tmp_path / "in" / f"s{sly.replace('/', '')}.tar", members)).parent, tmp_path / "out")
    assert "<img src=x" not in page and "&lt;img src=x" in page
    assert "<b>Bright" not in page


@pytest.mark.slow
def test_a_corpus_of_nothing_that_can_be_judged(tmp_path: Path) -> None:
    tar(tmp_path / "in/0.tar", [("a.png", b"none")])
    page = write(tmp_path / "in", tmp_path / "out")
    assert "No image was judged" in page and "1 members are no image" in page


@pytest.mark.slow
def test_a_picture_that_is_gone_leaves_its_place(tmp_path: Path) -> None:
    place = tars(tmp_path / "in")
    made = filtered(place, tmp_path / "out", config={"question": "?", "threshold": 0.5})
    (place / "00001.tar").unlink()
    page = write_page(made, open_corpus(place), load_level("heavy"), None).read_text()
    assert page.count('class="gone"') == 5


def test_shares_have_wilsons_interval() -> None:
    found = share(1, 10)
    # Wilson 1927: centre (p + z^2/2n) / (1 + z^2/n).
    assert (found.low, found.high) == pytest.approx((0.0179, 0.4042), abs=1e-4)
    assert share(0, 10).low == 0 and share(0, 10).high == pytest.approx(0.2775, abs=1e-4)
    assert share(0, 0).value is None


def test_agreement_by_hand() -> None:
    tally = Tally()
    for p_yes, label in ((0.95, True), (0.85, False), (0.72, True), (0.31, True), (0.22, False), (0.05, False)):
        tally.decide(NearThreshold(p_yes, "s", str(p_yes)), 1.0, p_yes >= 0.5, 10, label)
    found = agreement(tally)
    assert found is not None and found.area is not None
    assert (found.precision.value, found.recall.value, found.accuracy.value) == (2 / 3, 2 / 3, 4 / 6)
    # Of nine pairs of a true and a false one, seven stand in the right order: 0.72 and 0.31 lie below 0.85.
    assert found.area == pytest.approx(7 / 9)
    assert found.error == pytest.approx((0.05 + 0.85 + 0.28 + 0.69 + 0.22 + 0.05) / 6)
    other = Tally()
    other.decide(NearThreshold(0.6, "s", "x"), 0.1, True, 5, None)
    assert agreement(other) is None and other.little == 1
    tally.add(other)
    assert Tally.of_dict(json.loads(json.dumps(tally.to_dict()))) == tally and tally.kept == 4


def test_the_nearest_are_few_however_many_there_are() -> None:
    tally = Tally()
    for place in range(1000):
        tally.decide(NearThreshold(place / 1000, "s", f"{place:04d}"), 1.0, place >= 500, 1, None)
        assert len(tally.near_kept) <= 4 * SHOWN and len(tally.near_dropped) <= 4 * SHOWN
    tally.close()
    assert [one.key for one in tally.near_kept] == [f"{place:04d}" for place in range(500, 500 + SHOWN)]
    assert [one.key for one in tally.near_dropped] == [f"{place:04d}" for place in range(499, 499 - SHOWN, -1)]


def test_what_two_billion_would_take(tmp_path: Path) -> None:
    made = filtered(tars(tmp_path / "in"), tmp_path / "out")
    made = type(made)(**{**made.__dict__, "spent": Spent(15, 3.0, 1.5)})
    found = project(made, None, 2_000_000_000)
    assert found is not None and (found.a_second, found.a_cpu_second) == (5.0, 10.0)
    assert found.hours == pytest.approx(2e9 / 5 / 3600) and found.gpu_hours is None
    assert project(type(made)(**{**made.__dict__, "spent": Spent()}), None) is None


def test_the_disk_of_two_billion_is_not_that_of_the_headers_of_few(tmp_path: Path) -> None:
    few = tars(tmp_path / "few", shards=3, each=4)
    (tmp_path / "many").mkdir()
    pq.write_table(pa.table({"jpg": [png(200)] * 1500}), tmp_path / "many/0.parquet")
    a_picture = []
    for place in (few, tmp_path / "many"):
        made = filtered(place, tmp_path / "out" / place.name, judge=lambda: Brightness(200))
        found = project(made, None, 1_000_000)
        assert found is not None and "not in it" in found.lines()[-1]
        a_picture.append(found.decisions / 1e6)
    # p(yes) of one brightness takes nothing; a key of nine digits takes at least a byte.
    assert 0.5 < a_picture[1] < a_picture[0] < 40


def test_gpu_hours_and_cost_by_hand(tmp_path: Path) -> None:
    made = filtered(tars(tmp_path / "in", shards=1), tmp_path / "out")
    counted = replace(made, about={"flops": 989_400_000_000})
    found = project(counted, None, 7_200_000, "8xH100", mfu=0.5, price=3.0)
    # At half of 989.4 TFLOP/s an image takes two milliseconds of one GPU.
    assert found is not None and found.gpu_hours == pytest.approx(4.0) and found.cost == pytest.approx(12.0)
    assert "on 8xH100: 0.5 h, 4.0 GPU hours at 50% MFU (9.89e+11 FLOPs a picture), cost 12" in found.lines()[2]
    unknown = project(made, None, 7_200_000)
    assert unknown is not None and unknown.cost is None and not any("GPU" in line for line in unknown.lines())


def test_levels_ask_the_papers_questions() -> None:
    light, heavy = load_level("light"), load_level("heavy")
    assert light.question == "Does this image contain any readable text? Answer only yes or no."
    assert heavy.question.startswith("Please think carefully") and heavy.question.endswith("Answer only yes or no.")
    assert light.published and heavy.published and (light.published.share, heavy.published.share) == (0.503, 0.013)
    with pytest.raises(UserError, match=r"unknown filter 'lite'.*Did you mean 'light'"):
        load_level("lite")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "nobody"], "no run 'nobody'"),
        (["--model", "x/y/z"], "neither a folder nor a repository"),
        (["--model", "m", "--level", "lite"], "Did you mean 'light'"),
        (["--model", "m", "--write", "all"], "index or shards"),
        (["--model", "m", "--workers", "2"], "--workers goes with --ray"),
        (["--model", "m", "--gpus", "8xH1000"], "is unknown"),
    ],
)
def test_bad_options_are_one_line(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(png(3))
    found = CliRunner().invoke(app, ["filter", "--images", str(tmp_path / "in"), *options])
    assert found.exit_code == 2 and said in found.stderr and found.stderr.count("\n") == 1
    assert not (tmp_path / "results/filter").exists()
