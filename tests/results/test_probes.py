"""Classic vision of measured runs: read from a run's folder, shown beside published rows, refused when wrong."""

from __future__ import annotations

from pathlib import Path

import made_runs
import pytest

from mllm_eval import report, results
from mllm_eval.errors import UserError
from mllm_eval.report.site.contents import MenuEntry
from mllm_eval.report.site.runpage import probes_section
from mllm_eval.report.table import MISSING
from mllm_eval.results import read_run
from mllm_eval.storage import SHIPPED, write_atomic, write_json

WHOLE = {"value": 61.25, "n": 50000, "interval": [60.8, 61.7], "how": "linear probe"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MLLM_EVAL_PATH", str(tmp_path))


@pytest.mark.slow
def test_probes_of_a_run_are_in_its_row_and_in_no_blind_one() -> None:
    run, other = (made_runs.make_run(name, benchmarks=["gqa"]) for name in ("mini-dino", "mini-clip"))
    made_runs.make_run("mini-dino", benchmarks=["gqa"], variant="blind")
    assert "in1k" not in {
        column.key for column in report.comparison([read_run(run.folder), read_run(other.folder)]).columns
    }
    nyud = {"value": 0.5512, "n": 654, "how": "linear head"}
    write_json(run.folder / "probes.json", {"nyud_lin1": nyud, "in1k": WHOLE})
    table = report.comparison([read_run(run.folder), read_run(other.folder)], intervals=True)
    assert [one.key for one in table.columns if one.group == "Classic vision"] == ["in1k", "nyud_lin1"]
    seeing, second, blind = table.rows
    assert (seeing.cells["in1k"].text, seeing.cells["in1k"].interval) == ("61.3", "[60.8, 61.7]")
    assert seeing.cells["nyud_lin1"].text == "0.551"
    assert second.cells["in1k"].text == blind.cells["in1k"].text == MISSING
    assert "IN1k lin.: n 50,000, linear probe" in seeing.notes


def test_probes_stand_beside_the_papers(tmp_path: Path) -> None:
    run = made_runs.make_run("mini-dino")
    write_json(run.folder / "probes.json", {"in1k": WHOLE})
    yaml = (SHIPPED / "configs" / "tables" / "sota.yaml").read_text()
    mine = yaml.replace("name: sota", "name: mine").replace("measured: [{data: hub}]", "measured: [{}]")
    write_atomic(tmp_path / "configs" / "tables" / "mine.yaml", mine)
    table = report.named_table("mine")
    assert table.rows[-1].source == "measured" and table.rows[-1].cells["in1k"].text == "61.3"
    assert table.mixed and "published" in report.render(table, "md")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"in1K": WHOLE}, "Did you mean 'in1k'"),
        ({"in1k": {"value": 61.25, "n": 50000}}, "in1k.how"),
        ({"in1k": {**WHOLE, "n": 0}}, "in1k.n"),
        ({"in1k": {**WHOLE, "value": "high"}}, "in1k.value"),
        ({"in1k": {**WHOLE, "interval": [70.0, 71.0]}}, "not within its interval"),
        ([WHOLE], "not an object"),
    ],
)
def test_a_wrong_file_of_probes_is_named(entry: object, said: str) -> None:
    run = made_runs.make_run("mini-dino", benchmarks=["gqa"])
    write_json(run.folder / "probes.json", entry)
    with pytest.raises(UserError, match=said) as error:
        _ = results.read_run(run.folder).probes
    assert "probes.json" in str(error.value)


def test_the_page_of_a_run_says_how_it_was_probed() -> None:
    run = made_runs.make_run("mini-dino", benchmarks=["gqa"])
    assert probes_section(MenuEntry("k", "mini-dino", report.read_scored(read_run(run.folder)), {})) == ""
    write_json(run.folder / "probes.json", {"in1k": {**WHOLE, "how": "<b>linear</b> probe"}})
    page = probes_section(MenuEntry("k", "mini-dino", report.read_scored(read_run(run.folder)), {}))
    assert "61.3" in page and "[60.8, 61.7]" in page and "50,000" in page and "&lt;b&gt;linear" in page
