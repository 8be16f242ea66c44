"""What was found by changing files at random, each with a harmless input; and a few changed files of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import made_runs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fuzzing.__main__ import main, table
from fuzzing.kinds import KINDS
from fuzzing.running import Changed, Found, run_kind
from hypothesis import strategies as st
from tiny_models import make_encoder, make_llm, make_recipe

from mllm_eval import config, yamlbounds
from mllm_eval.adapters import load_encoder_model
from mllm_eval.alignment.pairs import load_pairs
from mllm_eval.alignment.protocol import Alignment
from mllm_eval.catalog.llamaconfig import llama_config
from mllm_eval.data import parquet
from mllm_eval.data.conversations import ConversationSet
from mllm_eval.errors import UserError
from mllm_eval.model import load_tokenizer
from mllm_eval.pipeline.provision import check
from mllm_eval.plan.workload import stage_load
from mllm_eval.results import record_of
from mllm_eval.results.timings import read_timings
from mllm_eval.storage import iter_jsonl, read_json

DEEP = "[" * 1500 + "]" * 1500


@pytest.mark.slow
def test_changed_files_of_every_kind_are_refused_or_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--inputs", "340", "--seed", "7"]) == 0, capsys.readouterr().out


class Bad:
    """Reads numbers, some of them badly."""

    def __init__(self, home: Path) -> None:
        self.inputs = st.integers(0, 99)

    def read(self, given: int) -> str:
        if given % 4 == 1:
            raise UserError("no")
        if given % 4 == 2:
            raise KeyError(given)
        if given % 4 == 3:
            raise Changed("row 1")
        return "read"


@pytest.mark.slow
def test_the_harness_tells_what_is_bad() -> None:
    found = run_kind("bad", Bad, 80, seed=1)
    assert found.inputs == 80 and not found.good
    assert all(found.counts[name] for name in ("read", "refused", "traceback", "changed"))
    assert any("KeyError" in told for told in found.told) and "changed: row 1" in found.told
    again = run_kind("bad", Bad, 80, seed=1)
    assert again.counts == found.counts
    assert "| bad | 80 |" in table([found])


def test_the_harness_ends_what_takes_too_long_or_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal
    import threading

    class Ends(Bad):
        def read(self, given: int) -> str:
            if given % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()
            return "read"

    monkeypatch.setattr("fuzzing.running.SECONDS", 0.5)
    found = run_kind("ends", Ends, 2, seed=0)
    assert found.counts["hang"] + found.counts["crash"] == found.inputs == 2


def test_values_nested_too_deeply_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(DEEP)
    with pytest.raises(UserError, match="nested too deeply"):
        read_json(path)
    with pytest.raises(UserError, match=r"x\.json:1: its values are nested too deeply"):
        list(iter_jsonl(path))
    (tmp_path / "ledger.jsonl").write_text(DEEP + '\n{"step": "a", "seconds": 1}\n')
    assert [one.title for one in read_timings(tmp_path)] == ["a"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": ' + DEEP + "}\n")
    assert "nested too deeply" in str(next(ConversationSet(rows, tmp_path).read_from(0)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: " + "[" * 60 + "]" * 60, "more than 50 levels"),
        ("a: &x [*x]", r"mine\.yaml:1: \*x stands within what it stands for"),
        ("? [a, b]\n: 1", "a key that is no text"),
        ("a: 2001-02-30", "not valid yaml"),
        ("a: '" + "x" * (yamlbounds.MOST_LETTERS + 1) + "'", "letters"),
    ],
)
def test_yaml_is_bounded(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        config.key_lines(path)


def test_aliases_count_as_what_they_stand_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    shared = [1, 2, 3]
    path.write_text(yaml.safe_dump({"a": shared, "b": shared}))
    assert "*" in path.read_text() and config.key_lines(path)
    monkeypatch.setattr(yamlbounds, "MOST_PARTS", 10)
    with pytest.raises(UserError, match="aliases written out"):
        config.key_lines(path)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


def test_a_page_of_a_parquet_file_that_is_damaged_is_one_line(tmp_path: Path) -> None:
    path = written(tmp_path / "x.parquet", [{"image": {"bytes": b"x" * 40, "path": None}, "text": "a"}] * 4)
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(20) + data[24:])
    with pytest.raises(UserError, match=r"x\.parquet: can't be read as a parquet file"):
        list(parquet.rows_in(path, parquet.open_parquet(path)))
    protocol = Alignment(name="a", version=1, data={"mine": {"path": str(tmp_path)}})
    with pytest.raises(UserError, match="can't be read as a parquet file"):
        load_pairs(protocol, "mine")


def test_a_row_group_beyond_the_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "x.parquet", [{"a": "text"}] * 4)
    assert len(list(parquet.rows_in(path, parquet.open_parquet(path)))) == 4
    monkeypatch.setattr(parquet, "GROUP_BYTES", 10)
    with pytest.raises(UserError, match="row group"):
        parquet.open_parquet(path)


@pytest.mark.parametrize(
    "change", [{"apply_layernorm": "no"}, {"num_channels": [3]}, {"hidden_act": "none such"}, {"model_type": ["x"]}]
)
def test_a_config_of_other_types_is_one_line(change: dict[str, Any], tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "e")
    path = tmp_path / "e/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    for use in (lambda: check(encoder, tmp_path / "e"), lambda: load_encoder_model(encoder)):
        with pytest.raises(UserError, match=f"({next(iter(change))}|none such).*fetch"):
            use()


def test_a_tokenizer_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    llm = make_llm(tmp_path / "l")
    path = tmp_path / "l/tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": "many"}))
    with pytest.raises(UserError, match="the tokenizer cannot be read"):
        load_tokenizer(llm, "llama_3_meta")


@pytest.mark.slow
@pytest.mark.parametrize("longest", ["many", [1]])
def test_a_checkpoint_with_fitting_checksums_is_read_and_its_tokenizer_tried(tmp_path: Path, longest: Any) -> None:
    from fuzzing.models import Resummed

    mine = Resummed(tmp_path)
    mine.use()
    path = mine.folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": longest}))
    with pytest.raises(UserError, match="the checkpoint cannot be read"):
        mine.use()


def test_a_gguf_tokenizer_that_a_library_panics_at_or_that_is_an_array_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mllm_eval.hub.gguf_header import GgufHeader
    from mllm_eval.model import dequantising

    class PanicException(BaseException):
        """What a library in Rust raises, which is no Exception."""

    def panics(*_: Any) -> Any:
        raise PanicException("range end index 3 out of range for slice of length 2")

    said: dict[str, Any] = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
                            "tokenizer.ggml.tokens": ["a", "b"]}  # fmt: skip
    monkeypatch.setattr(dequantising, "read_gguf", lambda path: GgufHeader(said, {}))
    assert dequantising.gguf_tokenizer(tmp_path / "x.gguf")("ab")["input_ids"] == [0, 1]
    for key in ("tokenizer.ggml.model", "tokenizer.ggml.pre"):
        with monkeypatch.context() as patch:
            patch.setitem(said, key, np.array([1, 2]))
            with pytest.raises(UserError, match=r"x.gguf: (has no|its) tokenizer"):
                dequantising.gguf_tokenizer(tmp_path / "x.gguf")
    monkeypatch.setattr(dequantising, "byte_level_tokenizer", panics)
    with pytest.raises(UserError, match=r"x.gguf: its tokenizer cannot be read \(range end index 3.*name another"):
        dequantising.gguf_tokenizer(tmp_path / "x.gguf")


def test_a_broken_training_row_does_not_stop_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = {"conversations": [{"from": "human", "value": "a" * 400}]}
    path.write_text(f"{DEEP}\n[1]\n" + json.dumps(good) + "\n")
    recipe = make_recipe(path, tmp_path)
    assert any("from 1 rows" in said for said in stage_load(recipe, 1, recipe.stage1).assumed)


def test_kinds_are_named_once() -> None:
    assert len(KINDS) >= 25 and isinstance(Found("x").counts["read"], int)


@pytest.mark.parametrize("kinds", [3, True, [1]])
def test_layers_of_an_llm_that_are_no_names_are_one_line(kinds: Any, tmp_path: Path) -> None:
    llm = make_llm(tmp_path / "l")
    path = tmp_path / "l/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer_types": kinds}))
    with pytest.raises(UserError, match="`layer_types` is no list of names"):
        check(llm, tmp_path / "l")


def test_a_summary_whose_count_is_no_number_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path))
    run = made_runs.make_run("mini-dino", benchmarks=["gqa"])
    path = run.summary_path("gqa", "cambrian")
    path.write_text(json.dumps({**json.loads(path.read_text()), "n_failed": [1]}))
    with pytest.raises(UserError, match="'n_failed' is no number"):
        record_of(run).summaries("cambrian")


def test_a_base_with_a_name_longer_than_files_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {'x' * 300}\nname: mine\n")
    with pytest.raises(UserError, match="is neither a file nor a sibling"):
        config.key_lines(path)


@pytest.mark.parametrize("said", [1.5, 3, "LlamaForCausalLM"])
def test_architectures_that_are_no_list_are_refused(said: object, tmp_path: Path) -> None:
    llm = make_llm(tmp_path / "l")
    path = tmp_path / "l/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": said}))
    with pytest.raises(UserError, match=r"`architectures` is a .*, not a list"):
        llama_config(llm, tmp_path / "l")
