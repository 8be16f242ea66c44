"""Training data at scale: indexes on disk, arrays, filters, budgets for broken rows, and kills in between."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peak_memory import peak
from tiny_models import make_conversations, make_recipe, make_tokenizer

from mllm_eval.catalog import load_llm, load_recipe
from mllm_eval.data import rowindex
from mllm_eval.data.conversations import ConversationSet
from mllm_eval.data.rowindex import row_index
from mllm_eval.errors import UserError
from mllm_eval.train import rowchunks, tokenising
from mllm_eval.train.rowtokens import ImageReading, TokenisedSet, tokenise


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    return tmp_path


def row(number: int, **more: Any) -> dict[str, Any]:
    said = [{"from": "human", "value": f'Ask {number} [ü] {{"'}, {"from": "gpt", "value": f"say \\ {number}"}]
    return {"conversations": said, **more}


def written(folder: Path, rows: list[Any], name: str = "rows.jsonl") -> Path:
    (folder / "images").mkdir(exist_ok=True)
    path = folder / name
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows))
    return path


# ---- the index ----
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("piece", [7, 64, 2**22])
def test_an_array_is_read_as_lines_are_whatever_the_piece(
    indent: int | None, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowindex, "PIECE", piece)
    rows = [row(number) for number in range(20)]
    lines = ConversationSet(written(tmp_path, rows), tmp_path / "images")
    array = tmp_path / "rows.json"
    array.write_text("\n " + json.dumps(rows, indent=indent, ensure_ascii=False) + "\n")
    found = ConversationSet(array, tmp_path / "images")
    assert list(found) == list(lines) and len(found) == 20
    text = array.read_text().splitlines()
    lines_of_rows = [number for number, line in enumerate(text, 1) if line == " {"] or [2] * 20
    assert [int(found.where(number).rpartition(":")[2]) for number in range(20)] == lines_of_rows


def test_an_array_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    whole = json.dumps([row(0), row(1)])
    for cut in (whole[:-1], whole[:-9], whole[:20]):
        path.write_text(cut)
        with pytest.raises(UserError, match="the JSON array is cut short"):
            row_index(path)


def test_the_index_is_written_once_and_again_when_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, [row(number) for number in range(5)])
    keep = tmp_path / "index"
    first = row_index(path, keep)
    assert isinstance(first, np.memmap) and first.tolist() == row_index(path).tolist()
    monkeypatch.setattr(rowindex, "row_starts", lambda _: pytest.fail("read again"))
    assert row_index(path, keep).tolist() == first.tolist()
    monkeypatch.undo()
    with open(path, "a") as file:
        file.write(json.dumps(row(5)) + "\n")
    assert len(row_index(path, keep)) == 6
    assert [one.name for one in keep.iterdir() if one.name.startswith(".")] == []


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rowindex, "CHUNK", 2**11)
    line = json.dumps(row(0)) + "\n"

    def indexed(rows: int) -> int:
        path, numbers = tmp_path / f"{rows}.jsonl", count()
        path.write_text(line * rows)

        def work() -> None:
            assert len(row_index(path, tmp_path / f"index{rows}-{next(numbers)}")) == rows

        return peak(work)

    assert indexed(20_000) < 1.1 * indexed(5_000)


# ---- rows that are left out ----
def tokens(folder: Path, found: ConversationSet, budget: int = 0, live: bool = False) -> TokenisedSet:
    return tokenise([found], make_tokenizer(), "digest", "llama_3_meta", [budget], ImageReading(live))


def test_excluded_rows_are_counted_and_listed(tmp_path: Path) -> None:
    path, images = make_conversations(tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    (images / "LAION-5").mkdir()
    (images / "LAION-5" / "a.png").write_bytes((images / "0.png").read_bytes())
    lines[3]["image"] = "LAION-5/a.png"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = tokens(tmp_path, ConversationSet(path, images, exclude=["*laion*", "other/*"]))
    assert len(found) == 23 and found.left_out == {"excluded": 1}
    listed = [json.loads(line) for line in found.listing.read_text().splitlines()]
    assert listed == [{"row": f"{path}:4", "why": "excluded", "reason": "an image fits a pattern of `exclude`"}]
    assert not any("LAION" in name for name, _ in found.images)


def test_broken_rows_are_left_out_within_the_budget_and_no_further(tmp_path: Path) -> None:
    path, images = make_conversations(tmp_path)
    lines = path.read_text().splitlines()
    lines[2] = '{"conversations": ['
    lines[8] = lines[8].replace("8.png", "gone.png")
    path.write_text("\n".join(lines) + "\n")
    found = tokens(tmp_path, ConversationSet(path, images), 2)
    assert len(found) == 22 and found.left_out == {"broken": 2}
    listed = [json.loads(line) for line in found.listing.read_text().splitlines()]
    assert [one["row"] for one in listed] == [f"{path}:3", f"{path}:9"]
    assert "is not JSON" in listed[0]["reason"] and "gone.png does not exist" in listed[1]["reason"]
    with pytest.raises(UserError, match=r"jsonl:9: .*gone\.png.*broken row number 2, `skip_broken` allows 1"):
        tokens(tmp_path, ConversationSet(path, images), 1)
    with pytest.raises(UserError, match=r"jsonl:3: is not JSON; mend or remove the row$"):
        tokens(tmp_path, ConversationSet(path, images))


def test_what_rows_do_not_say_as_it_is_taken_is_counted_and_listed(tmp_path: Path) -> None:
    path, images = make_conversations(tmp_path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["conversations"].append({"from": "human", "value": "And?"})
    rows[2]["conversations"][0]["value"] = "<image><image>\nWhat?"
    rows[3]["conversations"][1]["weight"] = 0
    rows[4]["conversations"][1]["weight"] = 0
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = tokens(tmp_path, ConversationSet(path, images))
    assert found.changed == {"last question": 1, "repeated marks": 1, "masked answers": 1}
    assert found.left_out == {"masked": 1} and len(found) == 23
    listed = [json.loads(line) for line in found.changes.read_text().splitlines()]
    assert [(one["row"], one["why"]) for one in listed] == [
        (f"{path}:2", "last question"),
        (f"{path}:3", "repeated marks"),
    ]
    ids, targets = (part[found.offsets[3] : found.offsets[4]] for part in (found.ids, found.targets))
    answer = make_tokenizer()("Yes", add_special_tokens=False)["input_ids"]
    assert ids[targets].tolist()[: len(answer)] == answer and rows[3]["conversations"][3]["value"] == "Yes"
    assert np.count_nonzero(np.diff(targets.astype(int)) == 1) == 1


def test_system_prompts_of_rows_can_be_left_aside(tmp_path: Path) -> None:
    system = {"from": "system", "value": "Be brief."}
    path = written(tmp_path, [{"conversations": [system, *row(0)["conversations"]]}])
    assert ConversationSet(path, tmp_path / "images")[0].system == "Be brief."
    assert ConversationSet(path, tmp_path / "images", system=False)[0].system is None


@pytest.mark.parametrize("live", [False, True])
def test_a_killed_tokenisation_goes_on_and_ends_with_the_same_arrays(
    live: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rowchunks, "CHUNK", 4)
    monkeypatch.setattr(tokenising, "NOTED", 2)
    path, images = make_conversations(tmp_path)
    path.write_text(path.read_text().replace("4.png", "gone.png"))
    found = ConversationSet(path, images)
    whole = tokens(tmp_path, found, 5, live)

    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "killed"))
    written_before: list[int] = []
    put = tokenising.Writer.put

    def die(self: Any, name: str, values: Any) -> None:
        # In the middle of the fourth chunk, with some of its files written and others not.
        written_before.extend([0] * (name == "origin"))
        if len(written_before) == 4:
            raise KeyboardInterrupt
        put(self, name, values)

    monkeypatch.setattr(tokenising.Writer, "put", die)
    with pytest.raises(KeyboardInterrupt):
        tokens(tmp_path, found, 5, live)
    monkeypatch.setattr(tokenising.Writer, "put", put)
    seen: list[int] = []
    read_from = ConversationSet.read_from
    monkeypatch.setattr(ConversationSet, "read_from", lambda self, at: (seen.append(at), read_from(self, at))[1])
    again = tokens(tmp_path, found, 5, live)
    assert seen[0] == 8
    for name in ("ids", "targets", "offsets", "image_offsets", "image_of", "first_target"):
        assert np.array_equal(getattr(again, name), getattr(whole, name)), name
    assert list(again.images) == list(whole.images) and again.left_out == whole.left_out == {"broken": 2}
    assert again.listing.read_text() == whole.listing.read_text()
    assert len(whole.images) == (18 if live else 9)
    assert [path for path in again.listing.parent.parent.iterdir() if path.is_dir()] == [again.listing.parent]


# ---- the recipes ----
@pytest.mark.parametrize(
    ("name", "llm", "rates", "batches", "warmups", "tokens"),
    [
        ("webssl-paper", "llama-3-8b-instruct", (1e-5, 4e-5), (512, 512), (0.06, 0.03), 576),
        ("cambrian", "llama-3-8b-instruct", (1e-3, 4e-5), (512, 512), (0.06, 0.03), 576),
        ("metamorph", "llama-3.1-8b", (4.9e-5, 6.93e-5), (768, 1536), (0.03, 0.03), 64),
    ],
)
def test_recipes_of_published_trainings(
    name: str, llm: str, rates: tuple[float, ...], batches: tuple[int, ...], warmups: tuple[float, ...], tokens: int
) -> None:
    recipe = load_recipe(name)
    stages = (recipe.stage1, recipe.stage2)
    assert (recipe.llm, recipe.tokens, recipe.data, recipe.dtype) == (llm, tokens, "hub", "bfloat16")
    assert tuple(stage.lr for stage in stages) == rates and tuple(stage.batch for stage in stages) == batches
    assert tuple(stage.warmup for stage in stages) == warmups and not any(stage.weight_decay for stage in stages)
    assert [stage.train_llm for stage in stages] == [False, True]
    assert [stage.deepspeed for stage in stages] == ["zero2", "zero3"]
    assert load_llm(llm).gated and len(load_llm(llm).weights.revision or "") == 40
    for stage in stages:
        assert stage.accumulation(16, name) * 16 * stage.micro_batch == stage.batch


def test_what_the_paper_does_not_state_is_marked() -> None:
    assumed = load_recipe("webssl-paper").assumed()
    unstated = ("epochs", "warmup", "schedule", "max_length", "deepspeed", "data.0.exclude")
    assert {f"{stage}.{field}" for stage in ("stage1", "stage2") for field in unstated} <= set(assumed)
    assert {"template", "projector", "dtype", "seed"} <= set(assumed)
    assert not {
        f"{stage}.{field}" for stage in ("stage1", "stage2") for field in ("lr", "batch", "weight_decay")
    } & set(assumed)
    assert load_recipe("cambrian").stage1.data[0].exclude == []
    lora = load_recipe("lora")
    assert lora.stage2.lora is not None and lora.stage1 == load_recipe("webssl-paper").stage1


def test_fields_that_came_later_do_not_touch_older_hashes() -> None:
    # As it was before `exclude`, `system`, `skip_broken` and `features`.
    assert make_recipe(Path("a"), Path("b")).hash == "9f655ba2449a"
    assert make_recipe(Path("a"), Path("b"), stage2={"features": "live"}).hash != "9f655ba2449a"
