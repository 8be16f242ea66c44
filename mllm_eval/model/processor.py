"""Text and images to the model's inputs, in transformers' own form, so that `AutoProcessor` gives it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor

from mllm_eval.adapters.preprocessing import to_pixels
from mllm_eval.catalog import Preprocessing, TokenGrid
from mllm_eval.decoding import upright_size
from mllm_eval.prompts import IMAGE, template_named


class VLMImageProcessor(BaseImageProcessor):
    """`mllm_eval`'s own preprocessing; `facts` is the encoder's `preprocessing` from the catalog."""

    model_input_names = ["pixel_values"]  # noqa: RUF012

    def __init__(self, facts: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.facts = facts

    def preprocess(self, images: Any, **kwargs: Any) -> BatchFeature:
        """`pixel_values` [n, 3, size, size] of a PIL image or of any nesting of lists of them."""
        facts = Preprocessing.model_validate(self.facts)
        pixels = np.stack([to_pixels(image, facts) for image in _flat(images)])
        return BatchFeature({"pixel_values": torch.from_numpy(pixels)})


class VLMProcessor(ProcessorMixin):
    """Tokenizer and image processor; every `<image>` in a text becomes as many tokens as its image takes.

    With `hide`, what is shown of each image is in `kept` (see `VLM.fuse`).
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        tokens: int = 576,
        row_token: bool = False,
        hide: bool = False,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)  # type: ignore[no-untyped-call]
        self.tokens, self.row_token, self.hide = tokens, row_token, hide
        self.image_token = IMAGE
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Model inputs of prompts as `mllm_eval.prompts.render` writes them: no special token is added."""
        texts = [text] if isinstance(text, str) else list(text or [])
        options = {"return_tensors": "pt", "padding": True, "padding_side": "left", **kwargs}
        options["add_special_tokens"] = False
        shown = _flat(images) if images is not None else []
        grid = TokenGrid(math.isqrt(self.tokens), self.row_token, self.hide)
        kept = [grid.kept(upright_size(image)) for image in shown]
        counts = iter(map(grid.count, kept))
        # A mark without a picture takes a whole grid.
        spread = [re.sub(re.escape(IMAGE), lambda _: IMAGE * next(counts, grid.positions), one) for one in texts]
        encoded = self.tokenizer(spread, **options)
        pixels = self.image_processor(images) if shown else {}
        cut = {"kept": torch.tensor(kept)} if shown and self.hide else {}
        return BatchFeature({**encoded, **pixels, **cut})


def _flat(images: Any) -> list[Image.Image]:
    if isinstance(images, Image.Image):
        return [images]
    return [image for inner in images for image in _flat(inner)]


def chat_template(name: str) -> str:
    """A conversation template as the Jinja text that `apply_chat_template` reads.

    A message's content is a string, or a list of parts, of which `{"type": "image"}` is an `<image>` line.
    """
    chosen = template_named(name)

    def quoted(text: str) -> str:
        # A JSON string is a Jinja string, and keeps line breaks that Jinja would trim.
        return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"

    default = "" if chosen.system is None else chosen.system_open + chosen.system + chosen.system_close
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
        + quoted(chosen.user_open)
        + "{{ c.text }}"
        + quoted(chosen.user_close + chosen.assistant_open)
        + "{% else %}"
        + quoted(chosen.assistant_lead)
        + "{{ c.text }}"
        + quoted(chosen.assistant_close)
        + "{% endif %}{% endfor %}"
    )
