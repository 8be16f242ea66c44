"""An LLM in a GGUF file, written by the package gguf, is the model it was written from, or one line says why not."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import make_conversations, make_encoder, make_recipe
from transformers import AutoModelForCausalLM

from mllm_eval.catalog import LLM
from mllm_eval.catalog.gguf import llama3_factors
from mllm_eval.errors import UserError
from mllm_eval.hub.gguf_header import KINDS, read_gguf, read_header
from mllm_eval.model import load_llm_model, load_tokenizer
from mllm_eval.model.chat import nearest_template, other_words
from mllm_eval.model.outline import llama_outline
from mllm_eval.operations.shapes import llama_shape
from mllm_eval.pipeline.provision import provide_weights
from mllm_eval.results.record import record_of
from mllm_eval.run import Run
from mllm_eval.train import train

gguf = pytest.importorskip("gguf")
from made_gguf import CHAT, CHATML, HEADS, WIDTH, llm_of, make_model, write_gguf  # noqa: E402


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(3, 60)[None]).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
def test_a_file_gives_the_model_it_was_written_from(kind: str, tied: bool, tmp_path: Path) -> None:
    model = make_model(tied)
    llm = llm_of(write_gguf(tmp_path / "x.gguf", model, kind), model, kind)
    used = gguf.GGMLQuantizationType[kind]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                kept = gguf.quants.quantize(parameter.numpy(), used)
                parameter.copy_(torch.from_numpy(gguf.quants.dequantize(kept, used)).reshape(parameter.shape))
    found = load_llm_model(llm)
    assert torch.allclose(logits(found), logits(model), atol=1e-5)
    assert found.config.rope_parameters["rope_theta"] == 50000 and found.config.rms_norm_eps == 1e-5
    # It is an ordinary model: nothing of it says that it was quantised.
    assert found.float() is found and not hasattr(found.config, "quantization_config")
    assert load_llm_model(llm, torch.bfloat16).model.norm.weight.dtype == torch.bfloat16


def test_transformers_reads_the_same_from_the_file(tmp_path: Path) -> None:
    model = make_model()
    path = write_gguf(tmp_path / "x.gguf", model, "Q4_1")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    assert torch.allclose(logits(theirs), logits(load_llm_model(llm_of(path, model, "Q4_1"))), atol=1e-5)


def test_the_scaling_of_llama_3_is_read_from_its_divisors(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 50000.0, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    model = make_model(rope_parameters=rope)
    plain = make_model().model.rotary_emb.inv_freq
    divisors = (plain / model.model.rotary_emb.inv_freq).numpy()
    assert np.allclose(divisors, llama3_factors(50000.0, WIDTH // HEADS, 32.0), rtol=1e-5)

    def write(name: str, values: Any) -> LLM:
        path = write_gguf(tmp_path / name, model, change=lambda to: to.add_tensor("rope_freqs.weight", values))
        return llm_of(path, model)

    llm = write("right.gguf", divisors.astype(np.float32))
    assert torch.allclose(logits(load_llm_model(llm)), logits(model), atol=1e-5)
    llama_outline(llm)
    with pytest.raises(UserError, match=r"rope_freqs.weight is not what scaling of LLaMA 3.1's type gives"):
        load_llm_model(write("wrong.gguf", (divisors + 1).astype(np.float32)))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"params": 1}, "the architecture, which has"),
        ({"architecture": {"rope_base": 10000}}, "rope_theta is 50000.0, .*architecture.rope_base: 10000.0"),
        ({"architecture": {"norm_eps": 1e-6}}, "rms_norm_eps is 1e-05, .*architecture.norm_eps: 1e-06"),
        ({"quantisation": None}, "keeps its matrices as Q8_0, .* says no quantisation; say `quantisation: Q8_0`"),
        ({"quantisation": "Q4_1"}, "keeps its matrices as Q8_0, the yaml of llm tiny says quantisation: Q4_1"),
        ({"architecture": {"heads": 2, "head": 16}}, "num_attention_heads is 4"),
    ],
)
def test_the_yaml_is_held_against_the_file(said: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = make_model()
    path = write_gguf(tmp_path / "x.gguf", model, "Q8_0")
    own = llm_of(path, model, "Q8_0")
    shape = said.get("architecture", {})
    if "heads" in shape:
        # So that its number of parameters is the same.
        shape = {**shape, "kv_heads": 4, "head": 16, "heads": 2}
    changed = {**own.model_dump(), **said}
    if shape:
        changed["architecture"] = {**own.model_dump()["architecture"], **shape}
    # Some of these contradict themselves before a file is read, which pydantic says.
    with pytest.raises((UserError, ValueError), match=message):
        load_llm_model(LLM(**changed))


def test_words_must_be_tied_as_the_yaml_says(tmp_path: Path) -> None:
    model, other = make_model(True), make_model(False)
    path = write_gguf(tmp_path / "x.gguf", model)
    with pytest.raises(UserError, match=r"tie_word_embeddings is True, .* architecture.tied: False"):
        load_llm_model(llm_of(path, other))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arch": "qwen2"}, "the weights are of type 'qwen2', llm tiny must be 'llama'"),
        ({"lose": "blk.1.ffn_up.weight"}, "1 tensors are missing, the first is model.layers.1.mlp.up_proj.weight"),
        ({"lose": "token_embd.weight"}, "vocab_size is None|tensors are missing"),
        ({"change": lambda to: to.add_tensor("blk.0.attn_q_norm.weight", np.ones(16, np.float32))},
         "1 tensors have no place in the architecture, the first is blk.0.attn_q_norm.weight"),
        ({"change": lambda to: to.add_expert_count(8)}, "`num_local_experts: 8` is no LLaMA's"),
        ({"change": lambda to: to.add_logit_scale(0.5)}, "`logit_scale: 0.5` is no LLaMA's"),
        ({"change": lambda to: to.add_uint32("llama.unheard_of", 3)}, "`llama.unheard_of: 3` is not known here"),
        ({"change": lambda to: to.add_array("llama.attention.layers", [1, 2])}, "differs from layer to layer"),
        ({"change": lambda to: to.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE) or
          to.add_rope_scaling_factor(2.0)}, "of type 'longrope'"),
    ],
)  # fmt: skip
def test_what_is_no_llama_is_refused_by_every_reader(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = make_model()
    llm = llm_of(write_gguf(tmp_path / "x.gguf", model, **options), model)
    for use in (load_llm_model, llama_outline, lambda one: provide_weights([one])):
        with pytest.raises(UserError, match=message) as caught:
            use(llm)
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    model = make_model()
    raw = write_gguf(tmp_path / "x.gguf", model).read_bytes()
    begin = min(one.start for one in read_gguf(tmp_path / "x.gguf").tensors.values())
    places = [0, 3, 4, 8, 20, 23, 24, 30, *range(begin // 7, begin, begin // 7), begin, len(raw) - 1]
    for number, at in enumerate(places):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(raw[:at])
        with pytest.raises(UserError, match=r"cut short|not a GGUF file"):
            llama_shape(llm_of(path, model))


@pytest.mark.slow
def test_no_count_of_a_damaged_header_is_believed(tmp_path: Path) -> None:
    """Every eight bytes of a header set to a huge number: a line, and neither memory nor time is spent on it."""
    raw = write_gguf(tmp_path / "x.gguf", make_model()).read_bytes()
    begin = min(one.start for one in read_gguf(tmp_path / "x.gguf").tensors.values())
    refused = 0
    for count in (2**40, 2**63, 2**64 - 1):
        for at in (*range(8, 400, 4), *range(400, begin - 8, 211)):
            path = tmp_path / "damaged.gguf"
            path.write_bytes(raw[:at] + struct.pack("<Q", count) + raw[at + 8 :])
            try:
                read_gguf(path)
            except UserError:
                refused += 1
            read_header.cache_clear()
    assert refused > 150


@pytest.mark.slow
def test_a_damaged_file_is_a_line_or_the_same_model(tmp_path: Path) -> None:
    """Single bytes of the header changed at random: every reader gives what it says, or one line."""
    model = make_model()
    raw = write_gguf(tmp_path / "x.gguf", model).read_bytes()
    begin = min(one.start for one in read_gguf(tmp_path / "x.gguf").tensors.values())
    numbers, path = np.random.default_rng(0), tmp_path / "damaged.gguf"
    llm, refused = llm_of(path, model), 0
    for at in np.concatenate([numbers.integers(0, 900, 60), numbers.integers(0, begin, 60)]):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ int(numbers.integers(1, 256))]) + raw[at + 1 :])
        read_header.cache_clear()
        for use in (llama_outline, lambda one: load_tokenizer(one, "llama_3_meta")):
            try:
                use(llm)
            except UserError as problem:
                refused += 1
                assert "\n" not in str(problem)
    assert refused > 40


@pytest.mark.parametrize("nested", [2, 2000])
def test_arrays_in_arrays_end(nested: int, tmp_path: Path) -> None:
    body = struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9)
    body += struct.pack("<IQ", 9, 1) * nested + struct.pack("<IQ", 0, 1) + b"\x07"
    path = tmp_path / "x.gguf"
    path.write_bytes(body)
    if nested == 2:
        assert read_gguf(path).metadata["k"][0][0].tolist() == [7]
        return
    with pytest.raises(UserError, match="array of type 9"):
        read_gguf(path)


def test_sizes_of_blocks_are_the_packages() -> None:
    theirs = {int(kind): (kind.name, *sizes) for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: theirs[kind] for kind in KINDS} == KINDS


def test_the_header_says_what_the_packages_reader_says(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", make_model(), "Q8_0")
    theirs, ours = gguf.GGUFReader(path), read_gguf(path)
    said = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    plain = {name: one.tolist() if isinstance(one, np.ndarray) else one for name, one in ours.metadata.items()}
    assert plain == said
    places = {one.name: (int(one.data_offset), int(one.n_bytes)) for one in theirs.tensors}
    assert {name: (one.start, one.size) for name, one in ours.tensors.items()} == places


def test_the_tokenizer_cuts_texts_as_the_file_says(tmp_path: Path) -> None:
    model = make_model(vocab=261)
    path = write_gguf(tmp_path / "x.gguf", model, marks=CHATML, pre="smollm", chat=CHAT)
    tokenizer = load_tokenizer(llm_of(path, model), "chatml")
    # Digits stand alone, so that two spaces before one are a piece, and a token.
    assert tokenizer.tokenize("a  12") == ["a", "\u0120\u0120", "1", "2"]
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == tokenizer.eos_token_id == 260
    text = "<|im_start|>user\nHi  there<|im_end|>"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    other = load_tokenizer(llm_of(write_gguf(tmp_path / "y.gguf", make_model()), make_model()), "llama_3_meta")
    assert other.tokenize(" t12") == ["\u0120t", "1", "2"] and other.backend_tokenizer.model.ignore_merges
    # Without an unknown token in the file there is none, and LLaMA 3's begin token stands in front.
    assert other.unk_token is None and len(other) == 264 and other("t")["input_ids"][0] == other.bos_token_id == 258


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pre": "unheard-of"}, "cuts texts as 'unheard-of', which is not known here; name another in the yaml"),
        ({"change": lambda to: to.kv_data[0].pop("tokenizer.ggml.tokens")}, "has no tokenizer; name another"),
    ],
)
def test_a_tokenizer_that_is_not_known_is_refused_and_another_can_be_named(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    model = make_model()
    llm = llm_of(write_gguf(tmp_path / "x.gguf", model, **change), model)
    with pytest.raises(UserError, match=message):
        load_tokenizer(llm, "llama_3_meta")
    known = load_tokenizer(llm_of(write_gguf(tmp_path / "y.gguf", model), model), "llama_3_meta")
    known.save_pretrained(tmp_path / "words")
    beside = LLM(**{**llm.model_dump(), "tokenizer": {"path": str(tmp_path / "words")}})
    assert load_tokenizer(beside, "llama_3_meta").get_vocab() == known.get_vocab()
    # Another tokenizer makes other tokens: it is part of what a run is.
    runs = [Run(make_encoder(tmp_path / "e"), make_recipe(*make_conversations(tmp_path / "d")), one, 0)
            for one in (llm, beside)]  # fmt: skip
    assert len({run.hash for run in runs}) == 2


def test_the_files_own_chat_template_is_held_against_ours(tmp_path: Path) -> None:
    model = make_model(vocab=261)
    llm = llm_of(write_gguf(tmp_path / "x.gguf", model, marks=CHATML, pre="smollm", chat=CHAT), model)
    tokenizer = load_tokenizer(llm, "chatml")
    assert other_words(tokenizer, "chatml") == (
        "its own chat template begins with '<|im_start|>system\\nBe kind<|im_end|>\\n', the template chatml does not"
    )
    assert "the template chatml_direct writes" in str(other_words(tokenizer, "chatml_direct"))
    (found,) = provide_weights([llm])
    assert found.notes == ("matrices kept as F32", other_words(tokenizer, "chatml"))
    tokenizer.chat_template = CHAT.replace("Be kind", "").replace("'<|im_start|>system\n<|im_end|>\n'", "''")
    assert other_words(tokenizer, "chatml") is None
    assert nearest_template(tokenizer) == "its own chat template is chatml"


@pytest.mark.slow
def test_a_run_is_trained_from_a_file_and_its_row_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    model = make_model(vocab=261)
    llm = llm_of(write_gguf(tmp_path / "x.gguf", model, "Q8_0", "llama", CHATML, "smollm", chat=CHAT), model, "Q8_0")
    data, images = make_conversations(tmp_path / "data")
    run = Run(make_encoder(tmp_path / "e"), make_recipe(data, images, template="chatml"), llm, 0)
    run.prepare()
    said: list[str] = []
    train(run, say=said.append)
    assert run.checkpoint.is_dir() and said[0].startswith("tiny: its own chat template begins with")
    assert record_of(run).notes == ("trained from tiny as a GGUF file keeps it (Q8_0), not from its released weights",)
    whole = Run(run.encoder, run.recipe, llm.model_copy(update={"quantisation": None}), 0, run.weights)
    assert whole.hash != run.hash and record_of(whole).held_equal != record_of(run).held_equal
