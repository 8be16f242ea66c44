"""The backend for stock transformers models, which are asked through their own processor and chat template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_eval.answers import Answer
from mllm_eval.catalog.variant import DEFAULT
from mllm_eval.data.samples import ImageRef
from mllm_eval.errors import UserError
from mllm_eval.generate.backend import Batch, ImageReader
from mllm_eval.generate.batching import Limits
from mllm_eval.generate.positions import position_limit
from mllm_eval.generate.request import Request, messages
from mllm_eval.greedy import KEPT, kept, overruled
from mllm_eval.prompts import marks_of, unmarked

if TYPE_CHECKING:
    import PIL.Image
    from torch import Tensor


def _no_image() -> PIL.Image.Image:
    raise UserError("there is no image")


# Placeholder in a request that only serves to write the prompt; the images are passed separately.
NO_IMAGE = ImageRef("", _no_image)


class StockModel:
    """A vision-language model with its processor that decodes greedily; code from its repository is never run.

    transformers' `generate` takes any argument that a call omits from the model's generation_config, for instance
    penalties or forced tokens. Therefore only the begin, end and padding tokens of that config are kept.
    `overruled` holds the ignored fields.
    """

    def __init__(self, folder: Path, dtype: str, device: str, batch: int = 1) -> None:
        """`batch`: number of requests in one batch.

        Raises UserError for a folder without a vision-language model, a processor or a chat template.
        """
        import torch
        from transformers import (
            MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
            AutoConfig,
            AutoModelForImageTextToText,
            AutoProcessor,
            GenerationConfig,
        )

        # Registers this project's classes with transformers, so that its own checkpoints can be loaded, too.
        import mllm_eval.model  # noqa: F401

        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        config = _loaded(folder, "config", AutoConfig.from_pretrained, **options)
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise UserError(f"{folder}: holds a {config.model_type!r}, which is no model for images and text")
        self.processor = _loaded(folder, "processor", AutoProcessor.from_pretrained, **options)
        tokenizer = getattr(self.processor, "tokenizer", None)
        if tokenizer is None or getattr(self.processor, "chat_template", None) is None:
            raise UserError(
                f"{folder}: its processor has no chat template, which says how to put a question to the model; "
                "put the model's chat_template.jinja into the folder"
            )
        tokenizer.padding_side = "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.tokenizer = tokenizer
        self.marks = marks_of(self.processor)
        from mllm_eval.adapters.loading import load_whole

        plain: Any = GenerationConfig
        own = kept(folder)
        model = load_whole(
            AutoModelForImageTextToText.from_pretrained,
            folder,
            left_out=None,
            dtype=getattr(torch, dtype),
            # Passed here, because transformers refuses to load some files that contradict themselves.
            generation_config=None if own is None else plain(**own),
        )
        self.model = model.to(device).eval()
        self.overruled = overruled(folder)
        for part in self.model.modules():
            # Sub-models with a generation_config of their own may run `generate`, too.
            if isinstance(said := getattr(part, "generation_config", None), GenerationConfig):
                part.generation_config = plain(**{name: getattr(said, name) for name in KEPT})
        self.folder = folder
        self.limits = Limits(rows=batch)
        self.images: ImageReader[PIL.Image.Image] = ImageReader(_decode)

    @property
    def positions(self) -> int | None:
        """The maximum number of tokens of a prompt and its answer; None where the model's config does not state it."""
        return position_limit(self.model.config.get_text_config())

    def render(self, request: Request) -> str:
        """Return a request's prompt by the model's chat template. Raises UserError where it leaves out an image."""
        mark = getattr(self.processor, "image_token", None)
        # The text of a control token inside a question must not act as one. transformers' `sanitize_control_tokens`
        # would keep the text unchanged, but it is recent and not available for every processor.
        asked = messages(unmarked(request.text, self.marks), len(request.images))
        text: str = self.processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        if mark and text.count(mark) < len(request.images):
            raise UserError(
                f"{self.folder}: its chat template makes {text.count(mark)} of {len(request.images)} image marks "
                f"({mark}); it must read content given as a list of parts"
            )
        return text

    def write(self, request: Request) -> Any:
        """Return the processor's input: the prompt, or its parts if the processor tells text from control tokens."""
        parts = getattr(self.processor, "parts", None)
        asked = messages(request.text, len(request.images))
        return parts(asked, add_generation_prompt=True) if parts else self.render(request)

    def plan(self, requests: Sequence[Request], limits: Limits) -> list[Batch]:
        """See `Backend.plan`. A batch holds at most `limits.rows` requests of one benchmark and variant.

        All its requests have the same number of images, since processors do not support ragged batches.
        """
        batches = []
        for _, task in groupby(requests, lambda one: (one.benchmark, one.variant, one.max_new_tokens)):
            ordered = sorted(task, key=lambda one: len(one.images))
            for images, group in groupby(ordered, lambda one: len(one.images)):
                alike = list(group)
                parts = (alike[start : start + limits.rows] for start in range(0, len(alike), limits.rows))
                batches += [Batch(tuple(part), len(part) * (1 + images)) for part in parts]
        return batches

    def prefetch(self, requests: Sequence[Request]) -> None:
        """See `Backend.prefetch`."""
        self.images.begin([image for request in requests for image in request.images])

    def count_tokens(self, request: Request) -> None:
        """Return None: only the processor knows the number, once it has the image."""

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """See `Backend.generate`."""
        answers: dict[Request, Answer] = {}
        for batch in self.plan(requests, self.limits):
            shown, failed = self.images.read([image for one in batch.requests for image in one.images])
            readable = []
            for one in batch.requests:
                if reason := next((failed[image.sha256] for image in one.images if image.sha256 in failed), None):
                    answers[one] = one.failure(reason)
                else:
                    readable.append(_Written(one, self.write(one), [shown[image.sha256] for image in one.images]))
            if readable:
                answers |= zip((one.request for one in readable), self._answers(readable), strict=True)
        return [answers[request] for request in requests]

    def _answers(self, written: Sequence[_Written]) -> list[Answer]:
        import torch

        requests = [one.request for one in written]
        inputs = self._inputs(written)
        counts, longest = inputs["attention_mask"].sum(1).tolist(), requests[0].max_new_tokens
        if self.positions is not None and max(counts) + longest > self.positions:
            if len(written) > 1:
                return [answer for one in written for answer in self._answers([one])]
            return [requests[0].too_long(counts[0], self.positions)]
        with torch.inference_mode():
            out = self.model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                max_new_tokens=longest,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        tokens = out[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._answer(*each) for each in zip(requests, tokens, counts, strict=True)]

    def first_logits(self, text: str, images: Sequence[PIL.Image.Image]) -> Tensor:
        """Return logits [B, vocabulary] of the first answer token to one question about each of B images.

        `generate` is called for a single token, which is one forward pass and returns unprocessed logits. Unlike a
        plain forward call, it prepares the positions after padding and other inputs that the model needs.
        """
        import torch

        request = Request("", DEFAULT, "", text, (), (NO_IMAGE,), 1, "")
        prompt = self.write(request)
        inputs = self._inputs([_Written(request, prompt, [image]) for image in images])
        with torch.inference_mode():
            out = self.model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                max_new_tokens=1,
                pad_token_id=self.tokenizer.pad_token_id,
                output_logits=True,
                return_dict_in_generate=True,
            )
        logits: Tensor = out.logits[0]
        return logits

    def _inputs(self, written: Sequence[_Written]) -> Any:
        import torch

        texts = [one.prompt for one in written]
        begin = self.tokenizer.bos_token
        options: dict[str, Any] = {"return_tensors": "pt", "padding": True}
        if begin and isinstance(texts[0], str) and texts[0].startswith(begin):
            # The chat template has already written the begin token.
            options["add_special_tokens"] = False
        if any(one.images for one in written):
            options["images"] = [list(one.images) for one in written]
        inputs = self.processor(text=texts, **options).to(self.model.device)
        for name, value in inputs.items():
            if torch.is_tensor(value) and value.is_floating_point():
                inputs[name] = value.to(self.model.dtype)
        return inputs

    def _answer(self, request: Request, tokens: list[int], tokens_in: int) -> Answer:
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        last = next((at for at, token in enumerate(tokens) if token in ends), len(tokens) - 1)
        tokens = tokens[: last + 1]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return request.answer(text, tokens_in, len(tokens))


@dataclass(frozen=True)
class _Written:
    """A request with its written prompt and its decoded images."""

    request: Request
    prompt: Any
    images: Sequence[PIL.Image.Image]


def _decode(images: Sequence[ImageRef]) -> list[PIL.Image.Image]:
    return [image.load() for image in images]


def _loaded(folder: Path, what: str, load: Callable[..., Any], **options: Any) -> Any:
    try:
        return load(folder, **options)
    except UserError:
        raise
    except Exception as problem:
        first = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        more = ""
        if "trust_remote_code" in str(problem) or "custom code" in str(problem):
            first, more = "it needs code of its own", "; this project runs none but transformers' own classes"
        raise UserError(f"{folder}: the {what} cannot be read ({first}){more}") from None
