"""`mllm-eval recipes NAME --batches`: shares, spread and padding of steps, against counts by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tiny_models import make_conversations, make_llm, make_recipe, make_tokenizer
from typer.testing import CliRunner

from mllm_eval.cli.app import app
from mllm_eval.cli.recipes import batches_of
from mllm_eval.data.conversations import ConversationSet
from mllm_eval.train.batchstats import KINDS, RowFacts, batch_stats, row_facts

CALL = CliRunner()


def stage(**changes: Any) -> Any:
    return make_recipe(Path("a"), Path("b"), stage2={"steps": None, **changes}).stage2


def rows_of(counts: dict[str, tuple[int, int, int]]) -> RowFacts:
    """So many rows of each kind, of one length and so many targets."""
    columns: list[list[int]] = [[], [], []]
    for kind, (count, length, targets) in counts.items():
        for column, value in zip(columns, (length, targets, KINDS.index(kind)), strict=True):
            column += [value] * count
    return RowFacts(*(np.array(column) for column in columns))


def test_a_kinds_share_of_the_loss_follows_the_order() -> None:
    # A quarter is text alone, of the length of the rest, with fifty times the targets.
    rows = rows_of({"text only": (100, 60, 500), "one short answer": (300, 50, 10)})

    def share(order: str) -> float:
        found = batch_stats(rows, stage(order=order, batch=20, micro_batch=5), 2, 0)
        assert found["kinds"]["text only"]["share_of_rows"] == 0.25 and found["steps"] == 20
        return float(found["kinds"]["text only"]["share_of_loss"])

    assert share("modality") == pytest.approx(0.25, abs=0.08)
    assert share("random") > 0.9
    assert share("length") == pytest.approx(0.25)


def test_padding_and_spread_are_those_of_the_micro_batches() -> None:
    rows = rows_of({"several turns": (4, 30, 3), "one long answer": (4, 10, 1)})
    found = batch_stats(rows, stage(order="random", batch=8, micro_batch=4), 2, 0)
    assert found["padding"] == 0 and found["length_cv"] == pytest.approx(0.5)
    assert batch_stats(rows, stage(order="random", batch=8, micro_batch=8), 2, 0)["padding"] == pytest.approx(1 / 3)
    assert found["target_tokens"] == {"min": 16, "median": 16, "max": 16}
    assert found["kinds"]["several turns"]["share_of_loss"] == pytest.approx(0.75)


def test_rows_are_counted_as_training_counts_them(tmp_path: Path) -> None:
    def row(image: bool, *answers: str) -> dict[str, Any]:
        turns = [turn for answer in answers for turn in
                 ({"from": "human", "value": "What?"}, {"from": "gpt", "value": answer})]  # fmt: skip
        return {"conversations": turns, **({"image": "gone.png"} if image else {})}

    lines = [row(True, "red"), row(True, "x" * 40), row(True, "a", "b"), row(False, "c"), {"conversations": []}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tokenizer = make_tokenizer()

    def facts(max_length: int) -> RowFacts:
        return row_facts([ConversationSet(path, tmp_path)], tokenizer, "llama_3_meta", 9, max_length)

    whole = facts(1000)
    kinds = [KINDS[kind] for kind in whole.kinds]
    assert kinds == ["one short answer", "one long answer", "several turns", "text only"]
    # A letter is a token, and each answer's end is learnt too.
    assert whole.targets.tolist() == [4, 41, 4, 2]
    assert whole.left_out == {"broken": 1} and str(whole.broken).startswith(f"{path}:5")
    cut = facts(int(whole.lengths[0]) - 1)
    # One letter less of all that are longer; the second answer of the third row is cut away.
    assert cut.targets.tolist() == [3, 3, 2, 2]
    assert cut.lengths.tolist() == [whole.lengths[0] - 1] * 3 + [whole.lengths[3]]
    assert facts(20).left_out == {"broken": 1, "too long": 4}


def test_what_is_told_is_what_training_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_models import make_encoder

    from mllm_eval.model import load_tokenizer
    from mllm_eval.run import Run
    from mllm_eval.train.batches import Collator, RowShape
    from mllm_eval.train.stages import prepare_stage

    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    data, images = make_conversations(tmp_path / "data")
    changes = {"order": "modality", "last_step": "fill", "max_length": 90}
    recipe, llm = make_recipe(data, images, stage1=changes, stage2=changes), make_llm(tmp_path / "llm")
    path = tmp_path / "tiny-llama.yaml"
    path.write_text(yaml.safe_dump(llm.model_dump(mode="json")))
    run = Run(make_encoder(tmp_path / "encoder"), recipe, llm, recipe.seed)
    told = batches_of(recipe, None, str(path))
    assert len(told) == 2
    for number, found in enumerate(told, 1):
        chosen = (recipe.stage1, recipe.stage2)[number - 1]
        one = prepare_stage(run, number, chosen, load_tokenizer(llm, recipe.template))
        lengths = [one.plan.lengths[one.plan.rows(step)] for step in range(one.plan.steps)]
        assert found["length_cv"] == pytest.approx(np.mean([each.std() / each.mean() for each in lengths]))
        assert found["rows"] == len(one.rows) and found["with_image"] == one.plan.with_image.sum()
        image = one.data.ids.max()
        collator = Collator(one.data, run.encoder.preprocessing, RowShape(image, recipe.tokens, 0, chosen.max_length))
        used = [collator.row(row)[1].sum() for row in one.rows.rows]
        targets = [sum(used[row] for row in one.plan.rows(step)) for step in range(one.plan.steps)]
        expected = {"min": min(targets), "median": np.median(targets), "max": max(targets)}
        assert found["target_tokens"] == expected


@pytest.mark.slow
def test_any_file_can_be_looked_at(tmp_path: Path) -> None:
    data, _ = make_conversations(tmp_path / "data", 72)
    shown = CALL.invoke(app, ["recipes", "mini", "--batches", "--data", str(data), "--json"])
    assert shown.exit_code == 0, shown.output
    first, second = json.loads(shown.output)["stages"]
    assert (first["order"], second["order"]) == ("random", "modality")
    assert first["rows"] == 72 and second["text_only"] == 12
    assert sum(kind["share_of_loss"] for kind in second["kinds"].values()) == pytest.approx(1)
    told = CALL.invoke(app, ["recipes", "mini", "--batches", "--data", str(data)]).output
    assert "stage 2: order modality, 680 steps of 16 rows" in told and "text only" in told
    assert CALL.invoke(app, ["recipes"]).output.count("\n") >= 5
    assert "order: modality" in CALL.invoke(app, ["recipes", "cambrian"]).output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipes", "--batches"], "--batches needs the name of a recipe"),
        (["recipes", "mini", "--data", "x.jsonl"], "belong to --batches"),
        (["recipes", "mini", "--batches", "--data", "gone.jsonl"], r"gone.jsonl: no such file of conversations"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str) -> None:
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-m", "mllm_eval", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
