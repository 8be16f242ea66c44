"""Export a checkpoint as transformers' `LlavaForConditionalGeneration`, if that class computes the same function."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from mllm_eval.adapters.base import EncoderModel
from mllm_eval.catalog import Encoder
from mllm_eval.disk import saving
from mllm_eval.errors import UserError
from mllm_eval.kernels import use_kernels
from mllm_eval.model.checkpoint import load_checkpoint
from mllm_eval.model.older import write_for_both
from mllm_eval.model.processor import VLMImageProcessor, chat_template
from mllm_eval.model.vlm import VLM
from mllm_eval.prompts import IMAGE, PromptTokens, prompt_parts, render

# Tolerance relative to the largest logit; the rounding of float32 sums in another order stays below it.
CLOSE = 1e-4
SHAPES = ((64, 64), (97, 61), (40, 120))


def why_not(model: VLM) -> str | None:
    """Return why LLaVA's class can't compute a model's function, as a sentence; None if it can."""
    facts = Encoder.model_validate(model.config.encoder)
    encoder: EncoderModel | None = model.encoder
    assert encoder is not None
    if not isinstance(encoder.model, PreTrainedModel):
        return f"its tower is a class of transformers, this encoder is a {type(encoder.model).__name__}"
    native = getattr(encoder.model.config, "image_size", None)
    if facts.norm:
        return "it takes features before the final norm, this encoder's are normed (norm: true)"
    if encoder.grid**2 != model.config.tokens:
        return (
            f"it can't resize the {encoder.grid} x {encoder.grid} patches to the budget of "
            f"{model.config.tokens} tokens; only tokens: {encoder.grid**2} could be said"
        )
    if model.config.row_token or model.config.hide:
        return "it can't end rows by a token or hide the padding (row_token, padding: hide)"
    if model.config.l2_normalize:
        return "it can't normalise the projector's input (l2_normalize: true)"
    if model.config.standardize:
        return "it can't standardise the projector's input (standardize: true)"
    if model.config.projector != "mlp2x_gelu":
        return f"its projector is mlp2x_gelu, this one is {model.config.projector}"
    if native != facts.preprocessing.size:
        return f"its tower reads images of {native} pixels, this encoder {facts.preprocessing.size}"
    if encoder.behind:
        return f"it takes the tokens behind the patches for patches, this encoder has {encoder.behind}"
    if encoder.prefix > 1:
        return f"it drops one token before the patches, this encoder has {encoder.prefix}"
    return None


def export_llava(checkpoint: Path, to: Path) -> str:
    """Write a checkpoint in LLaVA's format, load it by the Auto classes, and compare logits, pixels and prompt.

    Returns a sentence on the result of the comparison. The folder is written atomically, and only if nothing differs.

    Raises:
        UserError: LLaVA's class can't compute the function, the folder exists already, or the comparison failed.
    """
    if to.exists():
        raise UserError(f"{to}: is there already; name another folder")
    model = load_checkpoint(checkpoint)
    if reason := why_not(model):
        raise UserError(f"{checkpoint}: no LLaVA says this: {reason}; load it after `import mllm_eval` instead")
    fresh = to.with_name(f".{to.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        with saving(to):
            fresh.parent.mkdir(parents=True, exist_ok=True)
            as_llava(model).save_pretrained(fresh)
            _processor(model).save_pretrained(fresh)
            write_for_both(fresh)
            (fresh / "README.md").write_text(_readme(model), encoding="utf-8")
        said = _prove(model, fresh)
        with saving(to):
            os.rename(fresh, to)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return said


def as_llava(model: VLM) -> Any:
    """Return a `LlavaForConditionalGeneration` with a model's weights; `why_not(model)` must be None."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    encoder: Any = model.encoder
    text: Any = model.config.text_config
    text = type(text)(**text.to_dict())
    vocabulary = text.vocab_size
    image = model.config.image_token_id
    # LLaVA looks up the image token's embedding before it replaces it, so the embedding needs a row for it.
    text.vocab_size = max(vocabulary, image + 1)
    config = LlavaConfig(
        vision_config=encoder.model.config,
        text_config=text,
        image_token_index=image,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default" if encoder.prefix else "full",
        vision_feature_layer=encoder.facts.feature_layer,
        image_seq_length=model.config.tokens,
        tie_word_embeddings=text.tie_word_embeddings and text.vocab_size == vocabulary,
    )
    llava: Any = LlavaForConditionalGeneration(config)
    llava.to(model.dtype).eval()
    llava.model.vision_tower.load_state_dict(encoder.model.state_dict())
    first, _, second = model.projector.layers
    llava.model.multi_modal_projector.linear_1.load_state_dict(first.state_dict())
    llava.model.multi_modal_projector.linear_2.load_state_dict(second.state_dict())
    words = {name: tensor for name, tensor in model.llm.model.state_dict().items() if name != "embed_tokens.weight"}
    missing, unexpected = llava.model.language_model.load_state_dict(words, strict=False)
    assert set(missing) == {"embed_tokens.weight"} and not unexpected
    with torch.no_grad():
        for theirs, ours in (
            (llava.get_input_embeddings().weight, model.llm.get_input_embeddings().weight),
            (llava.lm_head.weight, model.llm.lm_head.weight),
        ):
            theirs.zero_()
            theirs[:vocabulary] = ours
    llava.generation_config = model.llm.generation_config
    ends = [model.tokenizer.eos_token_id, *_turn_end(model)]
    llava.generation_config.eos_token_id = sorted({end for end in ends if end is not None})
    llava.generation_config.pad_token_id = model.tokenizer.pad_token_id
    if text.vocab_size > vocabulary:
        # The added rows are no tokens of the LLM, so they must not be generated.
        llava.generation_config.suppress_tokens = list(range(vocabulary, text.vocab_size))
    return llava


def _turn_end(model: VLM) -> list[int]:
    from mllm_eval.prompts import template_named

    mark = template_named(model.config.template).assistant_close
    ids: list[int] = model.tokenizer(mark, add_special_tokens=False)["input_ids"]
    return ids if len(ids) == 1 else []


def _processor(model: VLM) -> Any:
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    facts = Encoder.model_validate(model.config.encoder)
    shown = facts.preprocessing
    edge = {"height": shown.size, "width": shown.size}
    options: dict[str, Any] = {
        "image_mean": list(shown.mean),
        "image_std": list(shown.std),
        "resample": {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[shown.interpolation],
        "crop_size": edge,
    }
    images: Any
    if shown.mode == "pad":
        images = LlavaImageProcessorPil(size=edge, do_pad=True, do_center_crop=False, **options)
    elif shown.mode == "squash":
        images = CLIPImageProcessorPil(size=edge, do_center_crop=False, **options)
    else:
        short = getattr(shown, "resize", None) or round(shown.size * 256 / 224)
        images = CLIPImageProcessorPil(size={"shortest_edge": short}, do_center_crop=True, **options)
    assert model.encoder is not None
    prefix = model.encoder.prefix
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=images,
        tokenizer=stock_tokenizer(model),
        patch_size=facts.patch,
        vision_feature_select_strategy="default" if prefix else "full",
        num_additional_image_tokens=prefix,
        image_token=IMAGE,
        chat_template=chat_template(model.config.template),
    )


def stock_tokenizer(model: VLM) -> Any:
    """Return a copy of the tokenizer that adds its begin token exactly if the template begins with it.

    Its end token is the one that ends a turn, if that is a single token. Some clients (lmms-eval) stop only at the
    tokenizer's end token, whatever the generation_config lists.
    """
    from tokenizers import processors

    made = copy.deepcopy(model.tokenizer)
    if turn_end := _turn_end(model):
        made.eos_token = made.convert_ids_to_tokens(turn_end[0])
    begin = PromptTokens(made, model.config.template).begin
    if getattr(made, "add_bos_token", None) is not None:
        made.add_bos_token = bool(begin)
    if (backend := getattr(made, "backend_tokenizer", None)) is not None:
        front = [made.bos_token] if begin else []
        backend.post_processor = processors.TemplateProcessing(
            single=[*front, "$A"],
            pair=[*front, "$A", "$B"],
            special_tokens=[(mark, made.bos_token_id) for mark in front],
        )
    return made


def _readme(model: VLM) -> str:
    return f"""# A checkpoint of mllm_eval as a stock LLaVA model

Ask it by its chat template, which writes `{model.config.template}`, or hand the processor the prompt that it writes:
`processor(text=prompt, images=image)`. Leave `add_special_tokens` alone: the begin token then stands in front once, as
in training.

The stock processor takes `{IMAGE}` and every control mark inside a question for the real one. Put a space into them
(`{IMAGE[:-1]} {IMAGE[-1]}`), as `mllm-eval eval --model` does, or tokenise by
`apply_chat_template(..., tokenize=True, sanitize_control_tokens=True)` where your transformers has it.
"""


def _prove(model: VLM, folder: Path) -> str:
    """Compare logits, pixels and prompt of the written folder with the model's, and return a sentence on the result.

    Raises UserError where logits or prompt differ. Pixels may differ by rounding, which the sentence reports.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    load_processor: Any = AutoProcessor.from_pretrained
    processor = load_processor(folder, **options)
    load: Any = AutoModelForImageTextToText.from_pretrained
    # The same kernels on both sides, so that rounding does not hide or cause a difference.
    llava: Any = use_kernels(load(folder, dtype=model.dtype, **options).eval())
    facts = Encoder.model_validate(model.config.encoder)
    ours = VLMImageProcessor(facts=facts.preprocessing.model_dump(mode="json"))
    noise = torch.Generator().manual_seed(0)
    pictures = [_picture(shape, noise) for shape in SHAPES]
    pixels = [
        (ours(one)["pixel_values"], processor.image_processor(one, return_tensors="pt")["pixel_values"])
        for one in pictures
    ]
    apart = max(float((mine - theirs).abs().max()) for mine, theirs in pixels)
    text = "What is in the picture?"
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
    prompt = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    if prompt != render(model.config.template, text, 1):
        raise UserError(f"{folder}: its chat template does not write the prompt of {model.config.template}")
    inputs = processor(text=[prompt], images=[pictures[0]], return_tensors="pt")
    _hold_tokens(model, folder, text, inputs["input_ids"][0].tolist())
    with torch.inference_mode():
        worst = 0.0
        for mine, _ in pixels:
            shown = mine.to(model.dtype)
            expected: Tensor = model(input_ids=inputs["input_ids"], pixel_values=shown).logits
            logits: Tensor = llava(input_ids=inputs["input_ids"], pixel_values=shown).logits
            apart_by = float((expected - logits[..., : expected.shape[-1]]).abs().max())
            worst = max(worst, apart_by / max(1.0, float(expected.abs().max())))
    if not worst <= CLOSE:
        raise UserError(f"{folder}: its logits differ by {worst:.3g} of the largest; nothing was written")
    told = f"logits of {len(pixels)} images differ by at most {worst:.2g} of the largest"
    if apart > CLOSE:
        steps = apart * min(facts.preprocessing.std) * 255
        told += f"; its image processor rounds otherwise, by up to {steps:.1f} of 255 a pixel"
    else:
        told += f", pixels by {apart:.2g}"
    return told


def _hold_tokens(model: VLM, folder: Path, text: str, given: list[int]) -> None:
    """Raise UserError unless a prompt with one image has the same tokens as in training."""
    words = PromptTokens(model.tokenizer, model.config.template)
    before, behind = (ids for ids, _ in words.encode(words.chunks(prompt_parts(model.config.template, text, 1))))
    expected = [*before, *[model.config.image_token_id] * model.config.tokens, *behind]
    if given != expected:
        at = next((at for at, pair in enumerate(zip(given, expected, strict=False)) if pair[0] != pair[1]), len(given))
        raise UserError(
            f"{folder}: its processor gives a prompt {len(given)} tokens and training {len(expected)}, other ones from "
            f"token {at} on: LLaVA's processor tokenises what follows an image otherwise; nothing was written"
        )


def _picture(shape: tuple[int, int], noise: torch.Generator) -> Image.Image:
    values = torch.randint(0, 256, (shape[1] // 8 + 1, shape[0] // 8 + 1, 3), generator=noise, dtype=torch.uint8)
    return Image.fromarray(values.numpy()).resize(shape, Image.Resampling.BICUBIC)
