"""`train --prepare`: what several processes tokenise is byte for byte what one does, killed and gone on with too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_conversations, make_encoder, make_llm, make_recipe

from mllm_eval.data.conversations import ConversationSet
from mllm_eval.decoding import PLAIN
from mllm_eval.errors import UserError
from mllm_eval.model import load_tokenizer
from mllm_eval.run import Run
from mllm_eval.train import prepare, rowchunks, rowtokens, stages, train
from mllm_eval.train.tokenising import BudgetedSet, Noted, Writer, write_tokens


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[BudgetedSet], Any]:
    monkeypatch.setattr(rowchunks, "CHUNK", 5)
    data, images = make_conversations(tmp_path / "data", 43)
    lines = data.read_text().splitlines()
    lines[7] = "{"
    gone = json.loads(lines[20])
    lines[20] = json.dumps({**gone, "image": "gone.png"})
    open_end = json.loads(lines[30])
    lines[30] = json.dumps({**open_end, "conversations": open_end["conversations"][:3]})
    masked = json.loads(lines[36])
    masked["conversations"][1]["weight"] = 0
    lines[36] = json.dumps(masked)
    data.write_text("\n".join(lines) + "\n")
    sets = [ConversationSet(data, images, exclude=["3.png"]), ConversationSet(data, images)]
    return [BudgetedSet(one, 4) for one in sets], load_tokenizer(make_llm(tmp_path / "llm"), "llama_3_meta")


def gone_far_enough(*_: Any) -> Any:
    raise InterruptedError


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.slow
@pytest.mark.parametrize("hashed", [PLAIN, None])
@pytest.mark.parametrize("sized", [PLAIN, None])
def test_any_number_of_processes_writes_the_same_bytes(
    rows: tuple[list[BudgetedSet], Any], hashed: Any, sized: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, tokenizer = rows
    made = []
    for processes in (1, 2, 3):
        folder = tmp_path / str(processes)
        write_tokens(folder, sources, tokenizer, Noted("llama_3_meta", hashed, sized), lambda _: False, processes)
        made.append(written(folder))
    assert made[0] == made[1] == made[2]
    assert len(made[0]["left_out.jsonl"].splitlines()) > 4 and made[0]["changed.jsonl"]
    # Killed behind a note, it goes on from there.
    plain, done = Writer.write, []

    def killed(self: Any, number: int, chunk: Any, budget: int) -> None:
        plain(self, number, chunk, budget)
        self.write_note()
        done.append(number)
        if len(done) == 11:
            raise KeyboardInterrupt

    monkeypatch.setattr(Writer, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        write_tokens(tmp_path / "again", sources, tokenizer, Noted("llama_3_meta", hashed, sized), lambda _: False, 2)
    write_tokens(tmp_path / "again", sources, tokenizer, Noted("llama_3_meta", hashed, sized), lambda _: False, 2)
    assert written(tmp_path / "again") == made[0] and len(done) == 18


def test_a_broken_row_too_many_stops_all_processes_in_one_line(
    rows: tuple[list[BudgetedSet], Any], tmp_path: Path
) -> None:
    sources, tokenizer = rows
    few = [BudgetedSet(source.rows, 1) for source in sources]
    found = []
    for processes in (1, 2):
        with pytest.raises(
            UserError, match=r"train\.jsonl:21: .*broken row number 2, `skip_broken` allows 1"
        ) as raised:
            write_tokens(tmp_path / "x", few, tokenizer, Noted("llama_3_meta"), lambda _: False, processes)
        found.append(str(raised.value))
        shutil.rmtree(tmp_path / ".x")
    assert found[0] == found[1]


@pytest.mark.slow
def test_training_takes_what_was_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    data, images = make_conversations(tmp_path / "data")
    recipe = make_recipe(data, images)
    run = Run(make_encoder(tmp_path / "encoder"), recipe, make_llm(tmp_path / "llm"), 0)
    said: list[str] = []
    prepare(run, said.append, 2)
    assert [line.partition(":")[0] for line in said] == ["stage 1", "stage 2"]
    monkeypatch.setattr(rowtokens, "write_tokens", lambda *_: pytest.fail("tokenised again"))
    monkeypatch.setattr(stages, "with_room", gone_far_enough)
    with pytest.raises(InterruptedError):
        train(run)
