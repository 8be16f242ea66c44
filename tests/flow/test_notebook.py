"""The notebook is executed as it stands, and shows what it stores.

`PYTHONPATH=tests python tests/flow/test_notebook.py` stores that anew.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from places import ROOT

from mllm_eval.miniature.build import build

PLACE = ROOT / "docs" / "examples" / "first-look.ipynb"
NUMBER = re.compile(r"-?\d+\.\d+")


def shown(cell: Any) -> list[str]:
    """What a cell prints and shows, as text and as html."""
    return [
        str(text)
        for one in cell.get("outputs", [])
        for text in (
            [one["text"]]
            if one["output_type"] == "stream"
            else [text for _, text in sorted(one.get("data", {}).items())]
        )
    ]


def alike(stored: list[str], found: list[str]) -> bool:
    """The same words; a score of 32 questions may move by a few of them, as other processors sum in another order."""
    if [NUMBER.sub("0.0", text) for text in stored] != [NUMBER.sub("0.0", text) for text in found]:
        return False
    numbers = [[float(one) for text in texts for one in NUMBER.findall(text)] for texts in (stored, found)]
    return all(abs(one - other) <= 10 for one, other in zip(*numbers, strict=True))


def executed(folder: Path) -> Any:
    """The notebook with what it gives in an empty folder; few rows to train on are rendered and tokenised soon."""
    build(folder / "data", alignment=64, instruction=64)
    run: Any = nbformat.read(PLACE, 4)  # type: ignore[no-untyped-call]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLLM_EVAL_DATA", str(folder / "data"))
        patch.setenv("MLLM_EVAL_RESULTS", str(folder / "results"))
        NotebookClient(run, timeout=None, startup_timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return run


@pytest.mark.slow
def test_the_notebook_shows_what_it_gives(tmp_path: Path) -> None:
    stored, run = nbformat.read(PLACE, 4), executed(tmp_path)  # type: ignore[no-untyped-call]
    assert sum(bool(shown(cell)) for cell in stored.cells) >= 7
    for before, after in zip(stored.cells, run.cells, strict=True):
        assert alike(shown(before), shown(after)), (shown(before), shown(after))


@pytest.mark.parametrize(
    ("found", "same"), [("mean 51.2", True), ("mean 91.2", False), ("mean 51", False), ("median 50.0", False)]
)
def test_only_numbers_may_move(found: str, same: bool) -> None:
    assert alike(["mean 50.0"], [found]) is same


if __name__ == "__main__":
    # Writes into the notebook what it gives.
    with tempfile.TemporaryDirectory() as place:
        found = executed(Path(place))
    for one in found.cells:
        one.metadata.pop("execution", None)
    nbformat.write(found, PLACE)  # type: ignore[no-untyped-call]
