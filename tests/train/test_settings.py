"""What a recipe, an LLM and a DeepSpeed JSON say of a training is held to each other before the first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from places import ROOT
from tiny_models import change_config, change_tensors, make_llm, make_recipe
from tiny_training import train_with

from mllm_eval.catalog import Lora
from mllm_eval.errors import UserError
from mllm_eval.model import load_llm_model, load_tokenizer
from mllm_eval.train.lora import add_lora
from mllm_eval.train.sharding import GATHER, deepspeed_config

pytestmark = pytest.mark.usefixtures("results")

SHIPPED = ROOT / "configs" / "deepspeed"


def refused(tmp_path: Path, message: str, llm: Any = None, **changes: Any) -> None:
    """That a training is refused in one line, and nothing of it was computed."""
    with pytest.raises(UserError, match=message) as caught:
        train_with(llm or make_llm(tmp_path / "llm"), tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "results" / "tokens").exists()


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_no_row_is_longer_than_the_llm_can_count(stage: str, tmp_path: Path) -> None:
    refused(
        tmp_path, "`max_length: 513` is more than the 512 positions of llm tiny-llama", **{stage: {"max_length": 513}}
    )


@pytest.mark.parametrize("role", ["pad_token", "eos_token", "additional_special_tokens"])
def test_a_special_token_outside_the_embedding_is_refused(role: str, tmp_path: Path) -> None:
    llm = make_llm(tmp_path / "llm")
    tokenizer = load_tokenizer(llm, "llama_3_meta")
    new = "[NEW]" if role != "additional_special_tokens" else ["[NEW]"]
    tokenizer.add_special_tokens({role: new})
    tokenizer.save_pretrained(tmp_path / "llm")
    with pytest.raises(UserError, match=r"'\[NEW\]' has id 263, the embedding of llm tiny-llama holds 263"):
        load_tokenizer(llm, "llama_3_meta")
    refused(tmp_path, r"'\[NEW\]' has id 263", llm)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("targets", "tied", "message"),
    [
        (["q_proj", "lm_head"], True, "the output layer 'lm_head' of this LLM is its embedding too"),
        (["q_proj", "embed_tokens"], True, "the LLM has no linear layer 'embed_tokens'; it has down_proj"),
        (["embed_tokens"], False, "the LLM has no linear layer 'embed_tokens'"),
        (["fc1"], False, "the LLM has no linear layer 'fc1'"),
    ],
)
def test_adapters_only_where_merging_changes_nothing_else(
    targets: list[str], tied: bool, message: str, tmp_path: Path
) -> None:
    llm = make_llm(tmp_path / "llm")
    if tied:
        change_config(tmp_path / "llm", tie_word_embeddings=True)
        change_tensors(tmp_path / "llm", **{"lm_head.weight": None})
        llm = llm.model_copy(update={"params": llm.params - llm.vocab * llm.width})
    refused(tmp_path, message, llm, stage2={"lora": {"r": 2, "alpha": 4, "targets": targets}})
    with pytest.raises(UserError, match=message):
        add_lora(load_llm_model(llm), Lora(r=2, alpha=4, targets=targets), llm)


def test_an_output_layer_of_its_own_may_have_an_adapter(tmp_path: Path) -> None:
    llm = make_llm(tmp_path)
    model = load_llm_model(llm)
    add_lora(model, Lora(r=2, alpha=4, targets=["lm_head"]), llm)
    assert next(name for name, one in model.named_parameters() if one.requires_grad).startswith("lm_head.lora_A")


def test_fused_kernels_want_the_activation_that_they_compute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllm_eval.train.argumentcheck.check_liger", lambda *_: None)
    llm = make_llm(tmp_path / "llm")
    change_config(tmp_path / "llm", hidden_act="gelu")
    refused(
        tmp_path,
        "`kernels: liger` computes a SwiGLU, llm tiny-llama has `hidden_act: gelu`",
        llm,
        stage2={"kernels": "liger"},
    )


def test_weights_that_do_not_fit_are_refused_before_the_images_are_encoded(tmp_path: Path) -> None:
    llm = make_llm(tmp_path / "llm")
    change_tensors(tmp_path / "llm", **{"model.norm.weight": torch.ones(63)})
    refused(tmp_path, r"model.norm.weight: \(63,\) in the file, \(64,\) by config and yaml", llm)


# ---- DeepSpeed's JSON ----
def written(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
    """The zero3 that is shipped, changed (None removes), as `own` in a folder of one's own."""
    base = json.loads((SHIPPED / "zero3.json").read_text())
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            value = {**base[name], **value}
        base[name] = value
    base = {name: value for name, value in base.items() if value is not None}
    path = folder / "configs" / "deepspeed" / "own.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(base))
    monkeypatch.setenv("MLLM_EVAL_PATH", str(folder))
    return base


def resolved(tmp_path: Path, processes: int = 1, **stage: Any) -> dict[str, Any]:
    recipe = make_recipe(tmp_path / "none.jsonl", tmp_path, stage2={"deepspeed": "own", "max_grad_norm": 0.5, **stage})
    found = deepspeed_config(recipe, recipe.stage2, processes, "stage 2")
    assert found is not None
    return found


OURS = (
    "train_micro_batch_size_per_gpu",
    "train_batch_size",
    "gradient_accumulation_steps",
    "gradient_clipping",
)


def test_what_the_json_leaves_out_is_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without these lines DeepSpeed clips at 1.0, and computes in another dtype.
    written(tmp_path, monkeypatch, **dict.fromkeys((*OURS, "bf16", "zero_allow_untested_optimizer")))
    found = resolved(tmp_path)
    assert {name: found[name] for name in OURS} == dict.fromkeys(OURS, "auto")
    assert found["bf16"] == {"enabled": "auto"} and found["zero_allow_untested_optimizer"] is True


def test_what_both_say_alike_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = {"type": "AdamW", "params": {"lr": 3e-3, "weight_decay": 0.0, "betas": [0.9, 0.999], "eps": 1e-8}}
    scheduler = {"type": "WarmupCosineLR", "params": {"warmup_max_lr": 3e-3, "total_num_steps": "auto"}}
    agreed = {"train_batch_size": 4, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 1}
    own = {"optimizer": optimizer, "scheduler": scheduler, "fp16": {"enabled": False}, "gradient_clipping": 0.5}
    written(tmp_path, monkeypatch, **own, **agreed)
    found = resolved(tmp_path)
    # The stage makes the optimiser itself, with the learning rates and decays of its groups.
    assert not {"optimizer", "scheduler", "fp16"} & found.keys()
    assert found["zero_optimization"]["stage"] == 3


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"gradient_clipping": 1.0}, "`gradient_clipping: 1.0` contradicts .* whose max_grad_norm is 0.5"),
        ({"train_batch_size": 8}, "`train_batch_size: 8` contradicts .* whose batch is 4"),
        ({"train_micro_batch_size_per_gpu": 1}, "`train_micro_batch_size_per_gpu: 1` .* micro_batch is 4"),
        ({"gradient_accumulation_steps": 2}, "`gradient_accumulation_steps: 2` .* is 1"),
        ({"bf16": {"enabled": True}}, "`bf16.enabled: true` .* is false"),
        ({"bf16": None, "bfloat16": {"enabled": True}}, "`bf16.enabled: true` .* is false"),
        ({"data_types": {"grad_accum_dtype": "bf16"}}, '`data_types.grad_accum_dtype: "bf16"` .* is "fp32"'),
        ({"fp16": {"enabled": True}}, "`fp16.enabled: true` .* is false"),
        ({"optimizer": {"type": "Lamb"}}, '`optimizer.type: "Lamb"`'),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-5}}}, "`optimizer.params.lr: 1e-05` .* lr is 0.003"),
        ({"optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}}, '`optimizer.type: "Adam"`'),
        ({"optimizer": {"type": "AdamW", "params": {"betas": [0.9, 0.95]}}}, "`optimizer.params.betas: "),
        ({"optimizer": {"type": "AdamW", "params": {"weight_decay": 0.1}}}, "weight_decay: 0.1"),
        ({"scheduler": {"type": "WarmupDecayLR"}}, '`scheduler.type: "linear"` .* schedule is "cosine"'),
        ({"scheduler": {"type": "WarmupCosineLR", "params": {"warmup_num_steps": 9}}}, "warmup_num_steps: 9"),
        ({"amp": {"enabled": True}}, "`amp` trains in a way that no recipe says"),
        ({"curriculum_learning": {"enabled": True}}, "`curriculum_learning` trains"),
        ({"zero_optimization": {GATHER: False}}, f"no `{GATHER}: true`"),
        ({"zero_optimization": {GATHER: None}}, f"no `{GATHER}: true`"),
    ],
)
def test_a_json_that_contradicts_the_recipe_is_refused(
    said: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, monkeypatch, **said)
    with pytest.raises(UserError, match=message) as caught:
        resolved(tmp_path)
    assert str(tmp_path / "configs" / "deepspeed" / "own.json") in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=message):
        train_with(make_llm(tmp_path / "llm"), tmp_path, stage2={"deepspeed": "own", "max_grad_norm": 0.5})
    assert not (tmp_path / "results" / "tokens").exists()


def test_a_json_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, monkeypatch)
    path = tmp_path / "configs" / "deepspeed" / "own.json"
    for text, message in (("{,}", "cannot be read as JSON"), ("[]", "holds a list")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            resolved(tmp_path)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_the_shipped_ones_leave_all_that_is_the_recipes_to_it(path: Path, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path / "none.jsonl", tmp_path, stage1={"deepspeed": path.stem})
    assert deepspeed_config(recipe, recipe.stage1, 1, "stage 1") == json.loads(path.read_text())
