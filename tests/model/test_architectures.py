"""Weights of another architecture, or not all in their place, are refused by every loader; those that fit are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from tiny_models import change_config, change_tensors, make_encoder, make_llm, make_recipe
from tiny_training import train_with

from mllm_eval.adapters import load_encoder_model
from mllm_eval.catalog import LLM
from mllm_eval.errors import UserError
from mllm_eval.model import assemble, load_checkpoint, load_llm_model, load_tokenizer, save_checkpoint
from mllm_eval.operations.shapes import llama_shape
from mllm_eval.pipeline.provision import provide_weights

pytestmark = pytest.mark.usefixtures("results")
SIZES = {
    "vocab_size": 263,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def another(name: str, folder: Path) -> LLM:
    """A random LLM of another architecture whose tensors bear the names of a LLaMA's."""
    llm = make_llm(folder)
    kinds: dict[str, tuple[Any, Any]] = {
        "qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config(**SIZES)),
        "mistral": (hf.MistralForCausalLM, hf.MistralConfig(**SIZES, sliding_window=8)),
        "gemma": (hf.GemmaForCausalLM, hf.GemmaConfig(**SIZES, head_dim=16)),
        "granite": (hf.GraniteForCausalLM, hf.GraniteConfig(**SIZES, logits_scaling=8.0)),
    }
    model_class, config = kinds[name]
    model = model_class(config)
    model.save_pretrained(folder)
    return llm.model_copy(update={"params": sum(one.numel() for one in model.parameters())})


@pytest.mark.parametrize("name", ["qwen2", "mistral", "gemma", "granite"])
def test_an_llm_of_another_architecture_is_refused_wherever_it_is_read(
    name: str, tmp_path: Path, results: Path
) -> None:
    llm = another(name, tmp_path / "llm")
    for use in (load_llm_model, llama_shape, lambda one: provide_weights([one]), lambda one: train_with(one, tmp_path)):
        with pytest.raises(UserError, match=f"the weights are of type '{name}', llm tiny-llama must be 'llama'"):
            use(llm)
    assert not [*results.glob("runs/*/stage*")] and not (results / "tokens").exists()


@pytest.mark.parametrize("name", ["qwen2", "mistral"])
def test_renaming_the_type_does_not_make_it_a_llama(name: str, tmp_path: Path) -> None:
    llm = another(name, tmp_path)
    change_config(tmp_path, model_type="llama")
    with pytest.raises(UserError, match=r"the weights are of .*ForCausalLM, llm tiny-llama must be a LlamaForCausalLM"):
        load_llm_model(llm)
    change_config(tmp_path, architectures=["LlamaForCausalLM"])
    found = "tensors have no place in the architecture" if name == "qwen2" else "`sliding_window: 8` is no LLaMA's"
    with pytest.raises(UserError, match=found):
        load_llm_model(llm)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"sliding_window": 8}, "sliding_window: 8"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"logit_scale": 0.0625}, "logit_scale: 0.0625"),
        ({"embedding_multiplier": 12.0}, "embedding_multiplier: 12.0"),
        ({"num_local_experts": 8}, "num_local_experts: 8"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor: 0.5"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "of type 'dynamic'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "mrope", "mrope_section": [4, 2, 2]}}, "of type 'mrope'"),
        ({"quantization_config": {"quant_method": "fp8"}}, r"quantised \(fp8\)"),
        ({"hidden_act": "unheard_of"}, "KeyError 'unheard_of'"),
        ({"model_type": None}, "of type None"),
    ],
)
def test_a_field_that_makes_another_function_is_refused(said: dict[str, Any], message: str, tmp_path: Path) -> None:
    llm = make_llm(tmp_path)
    change_config(tmp_path, **said)
    with pytest.raises(UserError, match=message) as caught:
        load_llm_model(llm)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        {"sliding_window": None},
        {"sliding_window": 512},
        {"sliding_window": 8, "use_sliding_window": False},
        {"logit_scale": 1.0, "num_experts": 0, "qk_norm": False},
        {"pretraining_tp": 2},
    ],
)
def test_a_field_that_changes_nothing_is_read_over(said: dict[str, Any], tmp_path: Path) -> None:
    llm = make_llm(tmp_path)
    change_config(tmp_path, **said)
    load_llm_model(llm)


@pytest.mark.parametrize(
    "said",
    [
        {"attention_bias": True, "mlp_bias": True},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}},
        {"head_dim": 32},
    ],
)
def test_what_a_llamas_own_config_may_say_is_computed(said: dict[str, Any], tmp_path: Path) -> None:
    llm = make_llm(tmp_path)
    torch.manual_seed(1)
    own = hf.LlamaForCausalLM(hf.LlamaConfig(**{**SIZES, **said})).eval()
    for parameter in own.parameters():
        parameter.data.normal_(0, 0.2)
    own.save_pretrained(tmp_path)
    llm = llm.model_copy(update={"params": sum(one.numel() for one in own.parameters())})
    tokenizer = load_tokenizer(llm, "llama_3_meta")
    recipe = make_recipe(tmp_path / "none.jsonl", tmp_path)
    model = assemble(make_encoder(tmp_path / "e"), recipe, load_llm_model(llm), tokenizer).eval()
    tokens = torch.randint(0, 256, (1, 40), generator=torch.Generator().manual_seed(0))
    expected = own(tokens).logits
    assert torch.allclose(model(input_ids=tokens).logits, expected, atol=1e-4)
    loss = torch.nn.functional.cross_entropy(expected[0, :-1], tokens[0, 1:])
    assert torch.allclose(model(input_ids=tokens, labels=tokens).loss, loss, atol=1e-4)


def test_tensors_are_all_there_all_used_and_of_their_shape(tmp_path: Path) -> None:
    llm = make_llm(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    change_tensors(tmp_path, **{name: whole[name][:100].clone()})
    with pytest.raises(UserError, match=rf"{name}: \(100, 64\) in the file, \(128, 64\) by config and yaml") as caught:
        load_llm_model(llm)
    assert "\n" not in str(caught.value)
    change_tensors(tmp_path, **{name: None})
    with pytest.raises(UserError, match=f"1 tensors are missing, the first is {name}"):
        load_llm_model(llm)
    change_tensors(tmp_path, **{name: whole[name], "model.layers.1.self_attn.q_norm.weight": torch.ones(16)})
    with pytest.raises(UserError, match=r"no place in the architecture, the first is model.layers.1.self_attn.q_norm"):
        load_llm_model(llm)
    # What old conversions stored beside the weights.
    change_tensors(tmp_path, **{"model.layers.1.self_attn.q_norm.weight": None})
    change_tensors(tmp_path, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    load_llm_model(llm)


def test_a_tied_output_layer_has_no_tensor_of_its_own(tmp_path: Path) -> None:
    llm = make_llm(tmp_path)
    tied = llm.model_copy(update={"params": llm.params - llm.vocab * llm.width})
    change_config(tmp_path, tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"config ties the output layer .* another lm_head.weight"):
        load_llm_model(tied)
    change_tensors(tmp_path, **{"lm_head.weight": None})
    assert load_llm_model(tied).lm_head.weight.shape == (263, 64)


def test_params_are_exact(tmp_path: Path) -> None:
    llm, encoder = make_llm(tmp_path / "llm"), make_encoder(tmp_path / "encoder")
    with pytest.raises(UserError, match=f"params: {llm.params + 1}, the weights have {llm.params}"):
        load_llm_model(llm.model_copy(update={"params": llm.params + 1}))
    with pytest.raises(UserError, match=f"params: {encoder.params - 1}, the weights have {encoder.params}"):
        load_encoder_model(encoder.model_copy(update={"params": encoder.params - 1}))


def test_the_yamls_architecture_is_held_to_the_weights_too(tmp_path: Path) -> None:
    llm = make_llm(tmp_path)
    fields = llm.model_dump()
    right = {"heads": 4, "kv_heads": 2, "hidden": 128}
    load_llm_model(LLM(**{**fields, "architecture": right}))
    # Keys of twice the heads of half the width: as many parameters, another function.
    wrong = LLM(**{**fields, "architecture": {**right, "heads": 8, "kv_heads": 4}})
    for use in (load_llm_model, llama_shape):
        with pytest.raises(UserError, match=r"num_attention_heads is 4, the yaml .* says architecture.heads: 8"):
            use(wrong)


def test_an_encoder_of_another_family_is_refused(tmp_path: Path) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    folder = tmp_path / "encoder"
    encoder = make_encoder(folder)
    torch.manual_seed(0)
    model = hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**shape, mlp_ratio=2))
    model.save_pretrained(folder)
    with pytest.raises(UserError, match=r"of type 'dinov2_with_registers', .*; set `family: dinov2_with_registers`"):
        load_encoder_model(encoder)
    change_config(folder, model_type="dinov2_with_register")
    with pytest.raises(UserError, match=r"no family reads it \(known: .*\). Did you mean 'dinov2_with_registers'"):
        load_encoder_model(encoder)
    change_config(folder, model_type="dinov2")
    with pytest.raises(UserError, match=r"the weights have 4 registers, family dinov2 reads them with 0; docs/add"):
        load_encoder_model(encoder)
    change_config(folder, num_register_tokens=0)
    with pytest.raises(UserError, match=r"no place in the architecture, the first is embeddings.register_tokens"):
        load_encoder_model(encoder)


def test_training_refuses_an_encoder_before_anything_is_computed(tmp_path: Path, results: Path) -> None:
    encoder = make_encoder(tmp_path / "encoder", "siglip", as_family="vit", norm=True, summary="mean")
    with pytest.raises(UserError, match=r"of type 'siglip_vision_model', family vit reads .*; set `family: siglip`"):
        train_with(make_llm(tmp_path / "llm"), tmp_path, encoder)
    assert not (results / "tokens").exists()


def test_an_encoders_tensor_of_another_shape_is_named_with_both(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path)
    change_tensors(tmp_path, **{"layernorm.weight": torch.ones(31)})
    with pytest.raises(UserError, match=r"layernorm.weight: \(31,\) in the file, \(32,\) by config and yaml"):
        load_encoder_model(encoder)


VISION: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 28,
    "patch_size": 7,
}
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
}
DECODER: dict[str, Any] = {
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}
DINO = {name: value for name, value in VISION.items() if name != "intermediate_size"} | {"mlp_ratio": 2}


@pytest.mark.parametrize(
    ("family", "whole"),
    [
        ("clip", lambda: hf.CLIPModel(hf.CLIPConfig(text_config=TEXT, vision_config=VISION))),
        ("metaclip2", lambda: hf.MetaClip2Model(hf.MetaClip2Config(text_config=TEXT, vision_config=VISION))),
        ("clip", lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**VISION))),
        ("siglip", lambda: hf.SiglipModel(hf.SiglipConfig(text_config=TEXT, vision_config=VISION))),
        ("vit", lambda: hf.ViTMAEForPreTraining(hf.ViTMAEConfig(**VISION, **DECODER))),
        ("vit", lambda: hf.ViTForImageClassification(hf.ViTConfig(**VISION))),
        ("vit", lambda: hf.ViTModel(hf.ViTConfig(**VISION))),
        ("dinov2", lambda: hf.Dinov2ForImageClassification(hf.Dinov2Config(**DINO))),
        ("ijepa", lambda: hf.IJepaForImageClassification(hf.IJepaConfig(**VISION))),
    ],
)
def test_heads_decoders_and_halves_for_text_are_left_out(family: str, whole: Any, tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "plain", family)
    model = whole()
    model.save_pretrained(tmp_path / "whole")
    moved = encoder.model_copy(update={"weights": type(encoder.weights)(path=str(tmp_path / "whole"))})
    load_encoder_model(moved)


@pytest.mark.slow
def test_a_checkpoint_with_a_tensor_too_many_is_refused(tmp_path: Path) -> None:
    encoder, llm = make_encoder(tmp_path / "e"), make_llm(tmp_path / "l")
    tokenizer = load_tokenizer(llm, "llama_3_meta")
    model = assemble(encoder, make_recipe(tmp_path / "none.jsonl", tmp_path), load_llm_model(llm), tokenizer)
    save_checkpoint(model, tmp_path / "c", load_encoder_model(encoder))
    load_checkpoint(tmp_path / "c")
    change_tensors(tmp_path / "c", **{"llm.model.layers.0.self_attn.q_proj.bias": torch.zeros(64)})
    # What an earlier version wrote has no checksums.
    (tmp_path / "c" / "files.json").unlink()
    with pytest.raises(UserError, match=r"no place in the architecture.*delete it and train again"):
        load_checkpoint(tmp_path / "c")
