"""Tiny random models, a tokenizer and rendered images, made by the tests that need them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from mllm_eval.catalog import LLM, Encoder, Recipe
from mllm_eval.environment import before_torch

before_torch()

QUESTION = "What colour is the square?\nAnswer with a word."
HALF = [0.5, 0.5, 0.5]
SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
    "<image>",
)
# Their class norms the class token alone, or nothing.
UNNORMED = ("clip", "metaclip2", "mlcd", "internvit", "radio")
NO_CLASS_TOKEN = ("aimv2", "ijepa", "siglip", "siglip2_naflex", "vjepa2")


def make_encoder(folder: Path, family: str = "dinov2", size: int = 28, **changes: Any) -> Encoder:
    """A random encoder of a family, saved in hub format under `folder`, and its yaml's content."""
    import transformers as hf

    common: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": size,
        "patch_size": 7,
    }
    kinds: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "dinov2": (hf.Dinov2Config, hf.Dinov2Model, {}),
        "dinov2_with_registers": (hf.Dinov2WithRegistersConfig, hf.Dinov2WithRegistersModel, {}),
        "dinov3": (hf.DINOv3ViTConfig, hf.DINOv3ViTModel, {}),
        "aimv2": (hf.Aimv2VisionConfig, hf.Aimv2VisionModel, {}),
        "metaclip2": (hf.MetaClip2VisionConfig, hf.MetaClip2VisionModel, {}),
        "vit": (hf.ViTConfig, hf.ViTModel, {"add_pooling_layer": False}),
        "ijepa": (hf.IJepaConfig, hf.IJepaModel, {"add_pooling_layer": False}),
        "clip": (hf.CLIPVisionConfig, hf.CLIPVisionModel, {}),
        "siglip": (hf.SiglipVisionConfig, hf.SiglipVisionModel, {}),
        "siglip2_naflex": (hf.Siglip2VisionConfig, hf.Siglip2VisionModel, {}),
        "mlcd": (hf.MLCDVisionConfig, hf.MLCDVisionModel, {}),
        "vjepa2": (hf.VJEPA2Config, hf.VJEPA2Model, {}),
        "internvit": (hf.InternVLVisionConfig, hf.InternVLVisionModel, {}),
        "tipsv2": (hf.Tipsv2VisionConfig, hf.Tipsv2VisionModel, {}),
        "radio": (hf.RadioConfig, hf.RadioModel, {}),
    }
    config_class, model_class, options = kinds[family]
    if family.startswith("dinov2") or family in ("radio", "tipsv2", "vjepa2"):
        common["mlp_ratio"] = 2.0 if family == "radio" else 2
        del common["intermediate_size"]
    predictor = {"pred_hidden_size": 12, "pred_num_attention_heads": 1, "pred_num_hidden_layers": 1}
    own: dict[str, dict[str, Any]] = {
        "dinov3": {"num_register_tokens": 4},
        "aimv2": {"use_head": False},
        "siglip2_naflex": {"num_patches": (size // 7) ** 2},
        "vjepa2": {"crop_size": size, **predictor},
        "internvit": {"attention_bias": True},
        "radio": {"max_img_size": 2 * size},
    }
    common |= own.get(family, {})
    torch.manual_seed(7)
    model = model_class(config_class(**common), **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    values: dict[str, Any] = {
        "name": f"tiny-{family}",
        "family": family,
        "weights": {"path": str(folder)},
        "patch": 7,
        "width": 32,
        "depth": 2,
        "params": sum(one.numel() for name, one in model.named_parameters() if not name.startswith("predictor.")),
        "norm": family not in UNNORMED,
        "summary": "mean" if family in NO_CLASS_TOKEN else "cls",
        "preprocessing": {"mode": "pad", "size": size, "mean": HALF, "std": HALF},
        "facts": {"pretraining_data": "none", "samples_seen": "0", "supervision": "none"},
    }
    if "as_family" in changes:
        changes["family"] = changes.pop("as_family")
    return Encoder(**{**values, **changes})


def make_tokenizer() -> Any:
    """A byte-level tokenizer with LLaMA-3's special tokens: 256 bytes and seven specials."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
        extra_special_tokens={"image_token": "<image>"},
    )


def sentencepiece_like(legacy: bool) -> Any:
    """A tokenizer of LLaMA-2's form: byte fallback, a mark for a space, in front of each section where `legacy`."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from mllm_eval.prompts import IMAGE

    controls = ["<unk>", "<s>", "</s>"]
    texts = [f"USER: {QUESTION} ASSISTANT: red", "A chat between a curious user and an assistant.", "blue and green"]
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    given = controls + [f"<0x{byte:02X}>" for byte in range(256)]
    made.train_from_iterator(texts * 4, trainers.BpeTrainer(vocab_size=380, show_progress=False, special_tokens=given))
    content = json.loads(made.to_str())
    content["added_tokens"] = []
    made = Tokenizer.from_str(json.dumps(content))
    if legacy:
        made.pre_tokenizer = None
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in [*controls, IMAGE]])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def make_llm(folder: Path, width: int = 64, depth: int = 2) -> LLM:
    """A random LLaMA with the tiny tokenizer, saved in hub format, and its yaml's content."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(8)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=depth,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    params = sum(parameter.numel() for parameter in model.parameters())
    return LLM(
        name="tiny-llama",
        weights={"path": str(folder)},
        params=params,
        width=width,
        depth=depth,
        vocab=len(tokenizer),
    )


def make_image(index: int, size: tuple[int, int] = (28, 28)) -> Image.Image:
    """A random image that its index alone decides."""
    noise = np.random.default_rng(index).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def make_conversations(folder: Path, count: int = 24) -> tuple[Path, Path]:
    """A jsonl of conversations, every sixth without an image, and its image folder."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    rows = []
    words = ["red", "green", "blue", "a long answer of words"]
    for index in range(count):
        row: dict[str, Any] = {"id": f"row{index}"}
        question = f"What is number {index}?"
        if index % 6 != 5:
            name = f"{index % 10}.png"
            make_image(index % 10, (28, 20 + index % 3)).save(images / name)
            row["image"] = name
            question = f"<image>\n{question}"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": words[index % 4]}]
        if index % 3 == 0:
            turns += [{"from": "human", "value": "Sure?"}, {"from": "gpt", "value": "Yes"}]
        row["conversations"] = turns
        rows.append(row)
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, images


def make_recipe(data: Path, images: Path, **changes: Any) -> Recipe:
    """A recipe of a few steps over one set of conversations; `stage1` and `stage2` changes are merged in."""
    stage: dict[str, Any] = {
        "data": [{"path": str(data), "images": str(images)}],
        "lr": 1e-2,
        "batch": 4,
        "micro_batch": 4,
        "steps": 6,
        "warmup": 0.1,
        "max_length": 128,
        "train_llm": False,
    }
    values: dict[str, Any] = {
        "name": "tiny",
        "llm": "tiny-llama",
        "template": "llama_3_meta",
        "tokens": 9,
        "data": "mini",
        "dtype": "float32",
        "seed": 3,
        "standardize": True,
    }
    values["stage1"] = {**stage, **changes.pop("stage1", {})}
    values["stage2"] = {**stage, "train_llm": True, "lr": 3e-3, **changes.pop("stage2", {})}
    return Recipe(**{**values, **changes})


def write_models(home: Path) -> None:
    """A tiny encoder and a tiny LLM under `weights/`, and their yaml files where names are looked up."""
    for kind, made in (
        ("encoders", make_encoder(home / "weights/tiny-dinov2")),
        ("llms", make_llm(home / "weights/tiny-llama")),
    ):
        path = home / "configs" / kind / f"{made.name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(made.model_dump(mode="json", exclude_none=True)))


def write_colours(home: Path) -> None:
    """A training set under `data/mine`: sixteen conversations about six pictures of one colour each."""
    pictures = home / "data/mine/images"
    pictures.mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (28, 28), (40 * number, 90, 200)).save(pictures / f"{number}.png")
    lines = [
        {"id": str(n), "image": f"{n % 6}.png", "conversations": [
            {"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": "red"}]}
        for n in range(16)
    ]  # fmt: skip
    (home / "data/mine/train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def random_features(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Patch features and summaries of so many images, alike each time: float32, [count, 3, 4, 5] and [count, 5]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 4, 5, generator=generator), torch.randn(count, 5, generator=generator)


def change_config(folder: Path, **changes: Any) -> None:
    """Write other values into the config.json of saved weights."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tensors(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Write other tensors into saved weights; None takes one away."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    held = {**load_file(path), **tensors}
    save_file({name: value for name, value in held.items() if value is not None}, path, metadata={"format": "pt"})
