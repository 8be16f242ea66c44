"""Load a model's parts, and write and load checkpoints, which are folders for transformers' Auto classes."""

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
    """Return the LLM's tokenizer with an `<image>` token, which is added after the vocabulary if it has none.

    Raises UserError where a control token of the template is not a single token, where another token lies beyond the
    LLM's embedding, or where the tokenizer can't be read.
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
    """Return the LLM's unchanged tokenizer, from the place in its yaml or with its weights.

    Raises UserError if it can't be read.
    """
    return tokenizer_at(weights_place(llm.tokenizer or llm.weights))


def tokenizer_at(place: Path) -> Any:
    """Return the tokenizer of a folder or a GGUF file. Raises UserError if it can't be read."""
    if is_gguf(place):
        return gguf_tokenizer(place)
    if not place.is_dir():
        raise UserError(f"{place}: is a file, where a folder with a tokenizer is needed")
    with understood(place, "the tokenizer cannot be read"):
        return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)


def _check_embedded(tokenizer: Any, llm: LLM, folder: Path) -> None:
    # Only the image token may exceed the embedding, as it is never looked up.
    behind = {name: number for name, number in tokenizer.get_vocab().items() if number >= llm.vocab and name != IMAGE}
    if behind:
        number, name = min((number, name) for name, number in behind.items())
        role = next((key for key, value in tokenizer.special_tokens_map.items() if value == name), "token")
        raise UserError(
            f"{folder}: the tokenizer's {role} {name!r} has id {number}, the embedding of llm {llm.name} holds "
            f"{llm.vocab}; use the tokenizer that this LLM was trained with, or another token of it in that place"
        )


def template_marks(template: str) -> list[str]:
    """Return the control tokens `<...>` of a template; each must be a single token of a matching tokenizer."""

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
    """Load an LLM as a `LlamaForCausalLM`, and check its yaml and config against its weights.

    Raises UserError for weights that are unreadable, incomplete or of another architecture, and for facts in yaml or
    config that contradict them.
    """
    folder = weights_place(llm.weights)
    if is_gguf(folder):
        # Checked first, because dequantising takes long.
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
    """Return a model to train: a loaded LLM with a new projector and without the encoder.

    The projector is initialised from torch's global random state, so seed it before.
    """
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
    """Return the processor for a model with this config."""
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
    """Write the model (safetensors), its config, processor and checksums to a folder, atomically.

    encoder: the encoder to add to a model that was trained without it. state: the tensors, where they are not those of
    the model itself (sharded over processes, or cast). Raises NotWritten where the system can't write.
    """
    config: VLMConfig = VLMConfig.from_dict(model.config.to_dict())
    tensors = dict(model.state_dict() if state is None else state)
    if encoder is not None:
        config.vision_config = encoder.config_values()
        tensors |= {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    with torch.device("meta"):
        shell = VLM(config)
    # The shell's dtype goes into config.json, and decides the dtype in which the checkpoint is loaded.
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
    """Load a checkpoint's model in evaluation mode, with its `tokenizer`; `dtype` defaults to the stored dtype.

    Without `encoder`, the encoder's tensors are not read, and the model takes features instead of pixels.

    Raises UserError where the folder is missing, damaged or no checkpoint of this project.
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
            # A tokenizer's settings are validated only when it first tokenises a text.
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
