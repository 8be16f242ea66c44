"""The model's processor, in transformers' form, so that `AutoProcessor` loads it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from mllm_eval.adapters.preprocessing import to_pixels
from mllm_eval.catalog import Preprocessing, TokenGrid
from mllm_eval.decoding import upright_size
from mllm_eval.prompts import IMAGE, NAMED, TEMPLATES, PromptPart, PromptTokens, parts_of, placed_parts, template_named


class VLMImageProcessor(BaseImageProcessor):
    """Image processor with this project's preprocessing; `facts` is the encoder's `preprocessing` in the catalog."""

    model_input_names = ["pixel_values"]  # noqa: RUF012

    def __init__(self, facts: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.facts = facts

    def preprocess(self, images: Any, **kwargs: Any) -> BatchFeature:
        """Return `pixel_values` float32 [n, 3, size, size] of a PIL image or of nested lists of PIL images."""
        facts = Preprocessing.model_validate(self.facts)
        pixels = np.stack([to_pixels(image, facts) for image in _flat(images)])
        return BatchFeature({"pixel_values": torch.from_numpy(pixels)})


class VLMProcessor(ProcessorMixin):
    """Tokenizer and image processor, which give a prompt the same tokens as training and evaluation do.

    Every `<image>` that stands for an image becomes that image's number of tokens. With `hide`, the output `kept` holds
    the shown part of each image (see `VLM.fuse`). template: the conversation template; checkpoints of earlier versions
    lack it, and it is then found by their chat template.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        tokens: int = 576,
        row_token: bool = False,
        hide: bool = False,
        chat_template: str | None = None,
        template: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)  # type: ignore[no-untyped-call]
        self.tokens, self.row_token, self.hide = tokens, row_token, hide
        self.template = template or _named(chat_template)
        self.image_token = IMAGE
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | Sequence[Sequence[PromptPart]] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Return model inputs: `input_ids` and `attention_mask` [n, N], and `pixel_values` [images, 3, size, size].

        A prompt is a string, as `mllm_eval.prompts.strings` or the chat template writes it, or a list of parts (see
        `parts`). Control tokens spelled out inside a question count as plain text. The begin token is added where the
        template requires it, whether or not the string contains it. kwargs: arguments of the tokenizer's `pad`; by
        default prompts are padded on the left.

        Raises ValueError where it is unclear which image belongs to which prompt, or with `truncation`.
        """
        prompts: list[Any] = [text] if isinstance(text, str) else list(text or [])
        counts = _counts(images, prompts)
        parts = [
            self._parted(one, count) if isinstance(one, str) else list(one)
            for one, count in zip(prompts, counts, strict=True)
        ]
        shown = [] if images is None else _flat(images)
        grid = TokenGrid(math.isqrt(self.tokens), self.row_token, self.hide)
        kept = [grid.kept(upright_size(image)) for image in shown]
        # An `<image>` without a given image takes the positions of a whole grid.
        positions = chain(map(grid.count, kept), repeat(grid.positions))
        pixels = self.image_processor(images) if shown else {}
        cut = {"kept": torch.tensor(kept)} if shown and self.hide else {}
        return BatchFeature({**self._encoded(parts, positions, kwargs), **pixels, **cut})

    def parts(self, messages: Sequence[dict[str, Any]], **options: Any) -> list[PromptPart]:
        """Return the parts of a conversation, so that no text in a message can act as a control token.

        The chat template is applied to placeholders, which the texts replace afterwards. options: those of
        `apply_chat_template`.
        """
        texts: dict[str, str] = {}

        def kept(text: str) -> str:
            name = f"{NAMED}{len(texts)}{NAMED}"
            texts[name] = text
            return name

        def held(content: Any, role: str) -> Any:
            if isinstance(content, str):
                # In a user's string, as in training rows, `<image>` stands for an image.
                marked = content.split(IMAGE) if role == "user" else [content]
                return IMAGE.join(kept(one) if one else one for one in marked)
            return [{**one, "text": kept(one["text"])} if one.get("text") else one for one in content]

        named = [{**one, "content": held(one["content"], one["role"])} for one in messages]
        written = super().apply_chat_template(named, tokenize=False, **options)
        return placed_parts(written, texts)

    def apply_chat_template(  # type: ignore[override]
        self, conversation: Any, chat_template: str | None = None, tokenize: bool = False, **kwargs: Any
    ) -> Any:
        """Work as `ProcessorMixin.apply_chat_template`, but with `tokenize` return the tokens of `parts`."""
        if not tokenize:
            return super().apply_chat_template(conversation, chat_template=chat_template, **kwargs)
        own = {name: kwargs.pop(name) for name in _OF_TEMPLATE if name in kwargs}
        whole, padding = kwargs.pop("return_dict", False), kwargs.pop("processor_kwargs", None) or {}
        one = not isinstance(conversation[0], (list, tuple))
        several = [conversation] if one else list(conversation)
        parts = [self.parts(messages, chat_template=chat_template, **own) for messages in several]
        images = [[_shown(part) for part in _images(messages)] for messages in several]
        batch = self(images=images, text=parts, **padding, **kwargs)
        return batch if whole else batch["input_ids"]

    def _parted(self, text: str, n_images: int | None) -> list[PromptPart]:
        if self.template is None:
            # The chat template is none of this project's, so control tokens in the string are taken as such.
            return placed_parts(text, {})
        words = PromptTokens(self.tokenizer, self.template)
        begin = self.tokenizer.bos_token if words.begin else None
        return parts_of(self.template, text.removeprefix(begin) if begin else text, n_images)

    def _encoded(
        self, prompts: Sequence[Sequence[PromptPart]], positions: Iterator[int], options: dict[str, Any]
    ) -> dict[str, Any]:
        words = PromptTokens(self.tokenizer, self.template)
        rows = []
        for parts in prompts:
            first, *others = [ids for ids, _ in words.encode(words.chunks(parts))]
            row = list(first)
            for ids in others:
                row += [self.image_token_id] * next(positions)
                row += ids
            rows.append(row)
        if not rows:
            return {}
        given = {"return_tensors": "pt", "padding": True, "padding_side": "left", **options}
        # These options must not reach the tokenizer, which would add its own begin token or cut off images.
        unused = {name: given.pop(name, None) for name in ("add_special_tokens", "truncation")}
        if unused["truncation"]:
            raise ValueError("a prompt is not cut: its images and its question stand in front of its end")
        padded: dict[str, Any] = dict(self.tokenizer.pad({"input_ids": rows}, **given))
        return padded


# Options of `apply_chat_template` that change the written text.
_OF_TEMPLATE = ("add_generation_prompt", "continue_final_message", "tools", "documents")


def _named(jinja: str | None) -> str | None:
    """Return the name of the conversation template with this chat template; None for another one."""
    return next((name for name in TEMPLATES if chat_template(name) == jinja), None)


def _counts(images: Any, prompts: Sequence[Any]) -> list[int | None]:
    """Return how many images each prompt shows; None where no images are given, so that every `<image>` counts."""
    if images is None:
        return [None] * len(prompts)
    if isinstance(images, (list, tuple)) and any(isinstance(one, (list, tuple)) for one in images):
        counts: list[int | None] = [len(_flat(one)) for one in images]
        if len(counts) != len(prompts):
            raise ValueError(f"{len(counts)} lists of images for {len(prompts)} prompts")
        return counts
    count = len(_flat(images))
    if len(prompts) == 1:
        return [count]
    marks = [one.count(IMAGE) if isinstance(one, str) else sum(part.image for part in one) for one in prompts]
    if sum(marks) == count:
        return list(marks)
    if count == len(prompts) and all(marks):
        return [1] * count
    raise ValueError(f"{count} images for prompts with {marks} marks; give a list of images for each prompt")


def _images(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    parts = [part for one in messages if not isinstance(one["content"], str) for part in one["content"]]
    return [part for part in parts if part.get("type") == "image" and part.keys() > {"type"}]


def _shown(part: dict[str, Any]) -> Image.Image:
    from transformers.image_utils import load_image

    loaded: Image.Image = load_image(next(value for key, value in part.items() if key != "type"))
    return loaded


def _flat(images: Any) -> list[Image.Image]:
    if isinstance(images, Image.Image):
        return [images]
    return [image for inner in images for image in _flat(inner)]


def chat_template(name: str) -> str:
    """Return a conversation template as Jinja text for `apply_chat_template`.

    A message's content is a string or a list of parts; a part `{"type": "image"}` becomes a line `<image>`.
    """
    chosen = template_named(name)

    def quoted(text: str) -> str:
        # JSON strings are valid Jinja strings, and keep line breaks that Jinja would trim.
        return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"

    default = "" if chosen.system is None else chosen.system_open + chosen.system + chosen.system_close
    again = ""
    if chosen.between:
        behind_an_answer = "not loop.first and messages[loop.index0 - 1]['role'] == 'assistant'"
        again = "{% if " + behind_an_answer + " %}" + quoted(chosen.between) + "{% endif %}"
    body = (
        "{% set c = namespace(text='') %}{% if message['content'] is string %}"
        "{% set c.text = message['content'] %}{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}{% set c.text = c.text + '<image>\\n' %}"
        "{% else %}{% set c.text = c.text + part['text'] %}{% endif %}{% endfor %}{% endif %}"
    )
    return (
        quoted(chosen.begin)
        + "{% if messages[0]['role'] != 'system' %}"
        + quoted(default)
        + "{% endif %}{% for message in messages %}"
        + body
        + "{% if message['role'] == 'system' %}"
        + quoted(chosen.system_open)
        + "{{ c.text }}"
        + quoted(chosen.system_close)
        + "{% elif message['role'] == 'user' %}"
        + again
        + quoted(chosen.user_open)
        + "{{ c.text }}"
        + quoted(chosen.user_close + chosen.assistant_open)
        + "{% else %}"
        + quoted(chosen.assistant_lead)
        + "{{ c.text }}"
        + quoted(chosen.assistant_close)
        + "{% endif %}{% endfor %}"
    )
