"""Scorers as metrics of the `evaluate` library: what is no answer is failed and counted, wherever it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from places import GOLDEN, ROOT

evaluate = pytest.importorskip("evaluate")

MISSING = [None, float("nan"), np.nan, np.float32("nan"), pd.NA, pd.NaT]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    # One folder for all: the library's package of loaded scripts is imported once in a process.
    folder = tmp_path_factory.mktemp("metrics")
    numbers = count()

    def loaded(name: str) -> Any:
        # The library keeps a metric's rows in a file of this name.
        own = f"own-{next(numbers)}"
        return evaluate.load(str(ROOT / "benchmarks" / name), cache_dir=str(folder / "rows"), experiment_id=own)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluate.config.HF_MODULES_CACHE", str(folder / "modules"))
        yield loaded


@pytest.mark.parametrize("missing", MISSING, ids=lambda value: type(value).__name__)
def test_a_missing_prediction_is_failed_wherever_it_stands(missing: Any, load: Callable[[str], Any]) -> None:
    references = [{"answer": "14", "type": "human_test"}] * 3
    for place in range(3):
        predictions = ["14", "14", "15"]
        right = predictions.copy()
        predictions[place] = missing
        said = load("chartqa").compute(predictions=predictions, references=references)
        scores = [None if at == place else float(text == "14") for at, text in enumerate(right)]
        assert (said["scores"], said["n_failed"], said["total"]) == (scores, 1, 2.0)
        assert said["accuracy"] == 100.0 * sum(score or 0 for score in scores) / 2


def test_all_kinds_of_lists_are_taken_and_nothing_but_missing_ones_has_no_report(load: Callable[[str], Any]) -> None:
    references = [{"answer": "14", "type": "human_test"}] * 2
    for predictions in (pd.Series(["14", None]), pd.array(["14", pd.NA], "string"), np.array(["14", None], object)):
        said = load("chartqa").compute(predictions=predictions, references=references)
        assert (said["accuracy"], said["n_failed"]) == (100.0, 1)
    assert load("chartqa").compute(predictions=[None, np.nan], references=references) == {
        "scores": [None, None],
        "n_failed": 2,
    }
    metric = load("chartqa")
    for prediction in (None, "14"):
        metric.add(prediction=prediction, reference=references[0])
    assert metric.compute()["n_failed"] == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (14, "int 14"),
        (0.57, "float 0.57"),
        (["14"], r"list \['14'\]"),
        (b"14", "bytes b'14'"),
        ({"text": "14"}, "dict"),
    ],
)
def test_a_prediction_that_is_no_text_is_named_in_one_line(wrong: Any, said: str, load: Callable[[str], Any]) -> None:
    for place in range(2):
        predictions: list[Any] = ["14", "14"]
        predictions[place] = wrong
        with pytest.raises(ValueError, match=rf"predictions\[{place}\] is {said}.*; an answer is text") as error:
            load("chartqa").compute(predictions=predictions, references=[{"answer": "14", "type": "x"}] * 2)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="2 predictions to 1 references"):
        load("chartqa").compute(predictions=["14", None], references=[{"answer": "14", "type": "x"}])


@pytest.mark.parametrize("name", ["mme", "mmbench_en", "mmvp"])
def test_with_a_failed_one_goes_what_is_scored_together_with_it(name: str, load: Callable[[str], Any]) -> None:
    letters = {"A": "ice", "B": "water", "C": "nan", "D": "nan"}
    rows: dict[str, list[dict[str, Any]]] = {
        "mme": [
            {"question_id": image, "category": "count", "answer": gold} for image in "pq" for gold in ("Yes", "No")
        ],
        "mmbench_en": [
            {**letters, "index": index, "answer": gold, "category": "c"}
            for index, gold in ((1, "A"), (1_000_001, "B"), (2, "A"), (1_000_002, "B"))
        ],
        "mmvp": [{"index": n, "options": "(a) Open (b) Closed", "answer": "(a)" if n % 2 else "(b)"}
                 for n in range(1, 5)],
    }  # fmt: skip
    golds = [row["answer"].strip("()") for row in rows[name]]
    whole = load(name).compute(predictions=golds[:2], references=rows[name][:2])
    for place in (2, 3):
        predictions: list[Any] = golds.copy()
        predictions[place] = None
        said = load(name).compute(predictions=predictions, references=rows[name])
        assert said.pop("n_failed") == 1 and said.pop("scores").count(None) == 1
        assert said == {key: value for key, value in whole.items() if key not in ("scores", "n_failed")}


def test_every_scorer_takes_a_missing_prediction_in_front(load: Callable[[str], Any]) -> None:
    golden = {path.stem: path for path in (GOLDEN).glob("*.jsonl") if path.stem != "prompts"}
    assert len(golden) == 16
    for name, path in golden.items():
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        first = [line for line in lines if not line["cambrian_error"]][:2]
        said = load(name).compute(
            predictions=[None, *(line["prediction"] for line in first)],
            references=[first[0]["record"], *(line["record"] for line in first)],
        )
        assert (said["n_failed"], said["scores"][0], len(said["scores"])) == (1, None, 3), name


def test_the_metric_prints_what_its_page_shows(
    load: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    ((code, shown),) = re.findall(r"^\$ python -c '(import evaluate;[^']*)'\n(.*)$", page, re.MULTILINE)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path))
    exec(code, {})
    assert capsys.readouterr().out == shown + "\n"
