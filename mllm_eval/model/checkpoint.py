"""Loading what a model is made of, and the checkpoint: one folder that transformers' Auto classes load."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mllm_eval import disk
from mllm_eval.adapters import weights_place
from mllm_eval.adapters.base import EncoderModel
from mllm_eval.adapters.loading import load_whole, understood
from mllm_eval.catalog import LLM, Encoder, Recipe, TokenGrid
from mllm_eval.catalog.gguf import is_gguf
from mllm_eval.catalog.llamaconfig import llama_config
from mllm_eval.disk import saving
from mllm_eval.errors import UserError
from mllm_eval.kernels import use_kernels
from mllm_eval.model import sums
from mllm_eval.model.dequantising import dequantised, gguf_tokenizer
from mllm_eval.model.outline import DERIVED, llama_outline, plain_config
from mllm_eval.model.processor import VLMImageProcessor, VLMProcessor, chat_template
from mllm_eval.model.vlm import VLM, VLMConfig
from mllm_eval.prompts import IMAGE, template_named


def load_tokenizer(llm: LLM, template: str) -> Any:
    """The LLM's tokenizer with an `<image>` token, which lies behind the vocabulary where it has none.

    Raises UserError where a mark of the template is not one token: it would be spelt letter by letter.
    """
    place = weights_place(llm.tokenizer or llm.weights)
    with understood(place, "the tokenizer cannot be read"):
        return _tokenizer(llm, template, place)


def _tokenizer(llm: LLM, template: str, folder: Path) -> Any:
    tokenizer = own_tokenizer(llm)
    for mark in template_marks(template):
        if len(tokenizer(mark, add_special_tokens=False)["input_ids"]) != 1:
            raise UserError(
                f"{folder}: the tokenizer has no token {mark!r}, which the template {template!r} needs; "
                "use the template that this LLM was trained with"
            )
    if len(tokenizer(IMAGE, add_special_tokens=False)["input_ids"]) != 1:
        tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]}, replace_extra_special_tokens=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    _check_embedded(tokenizer, llm, folder)
    return tokenizer


def own_tokenizer(llm: LLM) -> Any:
    """The tokenizer as it lies with the LLM's weights, or where its yaml says. Raises UserError if it can't be read."""
    return tokenizer_at(weights_place(llm.tokenizer or llm.weights))


def tokenizer_at(place: Path) -> Any:
    """The tokenizer of a folder or of a GGUF file. Raises UserError if it cannot be read."""
    if is_gguf(place):
        return gguf_tokenizer(place)
    if not place.is_dir():
        raise UserError(f"{place}: is a file, where a folder with a tokenizer is needed")
    with understood(place, "the tokenizer cannot be read"):
        return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)


def _check_embedded(tokenizer: Any, llm: LLM, folder: Path) -> None:
    # The image's token alone is never looked up.
    behind = {name: number for name, number in tokenizer.get_vocab().items() if number >= llm.vocab and name != IMAGE}
    if behind:
        number, name = min((number, name) for name, number in behind.items())
        role = next((key for key, value in tokenizer.special_tokens_map.items() if value == name), "token")
        raise UserError(
            f"{folder}: the tokenizer's {role} {name!r} has id {number}, the embedding of llm {llm.name} holds "
            f"{llm.vocab}; use the tokenizer that this LLM was trained with, or another token of it in that place"
        )


def template_marks(template: str) -> list[str]:
    """The marks `<...>` that a template puts around turns, each a single token in a fitting tokenizer."""

    chosen = template_named(template)
    parts = (
        chosen.begin,
        chosen.system_open,
        chosen.system_close,
        chosen.user_open,
        chosen.user_close,
        chosen.assistant_open,
        chosen.assistant_close,
    )
    return list(dict.fromkeys(re.findall(r"<[^<>\s]+>", "".join(parts))))


def load_llm_model(llm: LLM, dtype: torch.dtype = torch.float32) -> Any:
    """A `LlamaForCausalLM`, its yaml and its config checked against its weights.

    Raises UserError for weights that are unreadable, not whole, or of another architecture, and for facts that do
    not match.
    """
    folder = weights_place(llm.weights)
    if is_gguf(folder):
        # Before anything is dequantised.
        llama_outline(llm, folder)
        config = LlamaConfig(**plain_config(llm, folder))
        heads = config.num_attention_heads
        state = dequantised(folder, heads, config.num_key_value_heads or heads, dtype)
        given: dict[str, Any] = {"config": config, "state_dict": state}
        model = load_whole(LlamaForCausalLM.from_pretrained, folder, None, left_out=DERIVED, dtype=dtype, **given)
    else:
        llama_config(llm, folder)
        model = load_whole(LlamaForCausalLM.from_pretrained, folder, left_out=DERIVED, dtype=dtype)
    if model.config.tie_word_embeddings and model.lm_head.weight is not model.model.embed_tokens.weight:
        raise UserError(
            f"{folder}: its config ties the output layer to the embedding, its files have another lm_head.weight; "
            "say `tie_word_embeddings: false` if that is what the LLM was trained with"
        )
    params = sum(parameter.numel() for parameter in model.parameters())
    if params != llm.params:
        raise UserError(
            f"llm {llm.name}: the yaml says params: {llm.params}, the weights have {params}; correct the yaml"
        )
    return use_kernels(model)


def assemble(encoder: Encoder, recipe: Recipe, llm: Any, tokenizer: Any) -> VLM:
    """A model to train: a new projector before a loaded LLM, without the encoder. Seed torch before."""
    config = VLMConfig(
        encoder=encoder.model_dump(mode="json"),
        vision_config=None,
        text_config=llm.config.to_dict(),
        tokens=recipe.tokens,
        projector=recipe.projector,
        standardize=recipe.standardize,
        row_token=recipe.row_token,
        hide=TokenGrid.of(recipe, encoder).hide,
        l2_normalize=recipe.l2_normalize,
        template=recipe.template,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        dtype=recipe.dtype,
    )
    model = VLM(config, llm=llm)
    model.tokenizer = tokenizer
    return model


def make_processor(config: VLMConfig, tokenizer: Any) -> VLMProcessor:
    """The processor that belongs to a model."""
    facts = Encoder.model_validate(config.encoder)
    images = VLMImageProcessor(facts=facts.preprocessing.model_dump(mode="json"))
    options: dict[str, Any] = {"row_token": config.row_token, "hide": config.hide, "template": config.template}
    jinja = chat_template(config.template)
    return VLMProcessor(images, tokenizer, tokens=config.tokens, chat_template=jinja, **options)


def save_checkpoint(
    model: VLM,
    folder: Path,
    encoder: EncoderModel | None = None,
    state: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write the model (safetensors), its config, processor and checksums; the folder appears complete or not at all.

    `encoder` is put into a model that was trained without one, its weights as they were
    loaded. `state` holds the tensors where the model itself does not (sharded over processes, or cast).
    """
    config: VLMConfig = VLMConfig.from_dict(model.config.to_dict())
    tensors = dict(model.state_dict() if state is None else state)
    if encoder is not None:
        config.vision_config = encoder.config_values()
        tensors |= {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    with torch.device("meta"):
        shell = VLM(config)
    # The shell decides what config.json says, and with it the dtype in which anyone loads the tensors.
    dtype = tensors["llm.model.embed_tokens.weight"].dtype
    shell.to(dtype)
    shell.llm.config.dtype = dtype
    fresh = folder.with_name(f".{folder.name}.new")
    old = folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    with saving(folder):
        fresh.mkdir(parents=True)
        shell.save_pretrained(fresh, state_dict=tensors)
        make_processor(config, model.tokenizer).save_pretrained(fresh)
        for path in fresh.iterdir():
            with open(path, "rb") as file:
                disk.sync(file.fileno())
        sums.write(fresh)
        if folder.exists():
            os.rename(folder, old)
        disk.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, dtype: torch.dtype | None = None, encoder: bool = True) -> VLM:
    """The model of a checkpoint in evaluation mode, with its `tokenizer`, in its own dtype unless told.

    Without `encoder` its tensors are not read: it then takes features, as those who answer from a store do.

    Raises UserError where the folder is missing, cut short or of another kind.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no checkpoint here; train the run first")
    mend = "delete it and train again"
    if (expected := sums.read(folder)) is not None and (lost := sums.differing(folder, expected)):
        raise UserError(f"{folder / lost[0]}: is not what was written there; put it back, or {mend}")
    with understood(folder, "the checkpoint cannot be read", mend):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        loads = isinstance(config, VLMConfig)
        processor = VLMProcessor.from_pretrained(folder, local_files_only=True) if loads else None
        if processor is not None:
            # What a tokenizer's settings say is first looked at when a text is cut.
            processor.tokenizer(IMAGE)
    if processor is None:
        raise UserError(f"{folder}: holds a {config.model_type}, not a checkpoint of this project")
    left_out = ""
    if not encoder:
        config.vision_config, left_out = None, r"encoder\..*"
    options: dict[str, Any] = {"config": config, "dtype": dtype or "auto"}
    model = load_whole(VLM.from_pretrained, folder, left_out=left_out, mend=mend, **options)
    model.tokenizer = processor.tokenizer
    model.eval()
    loaded: VLM = use_kernels(model)
    return loaded
