"""Greedy answers of a finished model through its own processor and chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_eval.answers import Answer, Journal
from mllm_eval.config import canonical
from mllm_eval.data.samples import Sample
from mllm_eval.distributed.workqueue import Share
from mllm_eval.errors import UserError
from mllm_eval.generate.asking import AS_TEXT, TOO_LONG, fits
from mllm_eval.generate.positions import position_limit
from mllm_eval.greedy import KEPT, kept, overruled
from mllm_eval.progress import Progress
from mllm_eval.prompts import marks_of, may_hold_marks, unmarked

if TYPE_CHECKING:
    import PIL.Image

# What a broken image raises when it is decoded. Anything else is a fault of the code and stops the run.
BROKEN = (UserError, OSError, ValueError)


def messages(sample: Sample) -> list[dict[str, Any]]:
    """The one turn of a sample, in the form that chat templates read: its images, then its text."""
    parts: list[dict[str, Any]] = [{"type": "image"} for _ in sample.images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": sample.prompt}]}]


def _key(sample: Sample, overruled: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    # The template is the model's, and the run's hash knows the model: to know the messages is enough. Answers of a
    # version that followed the model's own decoding are others, and those that took a question's own marks for control
    # tokens.
    asked: Any = [messages(sample), dict(overruled)] if overruled else messages(sample)
    if may_hold_marks(sample.prompt):
        asked = [asked, AS_TEXT]
    digest = hashlib.sha256(canonical(asked).encode()).hexdigest()[:16]
    return digest, tuple(image.sha256[:16] for image in sample.images)


def pending_finished(
    samples: Sequence[Sample],
    journal: Journal,
    overruled: Mapping[str, Any] | None = None,
    room: int | None = None,
) -> list[str]:
    """The ids of the samples without an answer to these messages and images; needs no torch and no model.

    overruled: what greedy decoding does not follow of the model's generation_config (`mllm_eval.greedy`).
    room: how many tokens a prompt may have; an answer to a longer one was made of noise.
    """
    done = journal.done()
    return [sample.id for sample in samples if not _settled(done.get(sample.id), sample, overruled or {}, room)]


def _settled(answer: Answer | None, sample: Sample, overruled: Mapping[str, Any], room: int | None) -> bool:
    if answer is None or (answer.prompt, answer.images) != _key(sample, overruled):
        return False
    if answer.state == "ok":
        return fits(answer, room)
    if answer.reason.startswith(TOO_LONG):
        return True
    return isinstance(_images(sample), str)


def _images(sample: Sample) -> list[PIL.Image.Image] | str:
    """The images, or why they cannot be read."""
    try:
        return [image.load() for image in sample.images]
    except BROKEN as error:
        return " ".join(str(error).split()) or type(error).__name__


class FinishedModel:
    """A model and its processor, loaded without any code of the model's own; it decodes greedily.

    `generate` fills in from the model's generation_config whatever a call does not name, so that penalties, forced and
    forbidden tokens would stay in force: only the tokens that begin, end and fill an answer are kept of it.
    `overruled`: the fields that are not followed.
    """

    def __init__(self, folder: Path, dtype: str, device: str) -> None:
        """Raises UserError for a folder without a model for images and text, a processor or a chat template."""
        import torch
        from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig

        # Registers this project's own checkpoints, which can be asked like any other.
        import mllm_eval.model  # noqa: F401

        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        config = _loaded(folder, "config", AutoConfig.from_pretrained, **options)
        if type(config) not in AutoModelForImageTextToText._model_mapping:
            raise UserError(f"{folder}: holds a {config.model_type!r}, which is no model for images and text")
        self.processor = _loaded(folder, "processor", AutoProcessor.from_pretrained, **options)
        tokenizer = getattr(self.processor, "tokenizer", None)
        if tokenizer is None or getattr(self.processor, "chat_template", None) is None:
            raise UserError(
                f"{folder}: its processor has no chat template, so nobody knows how it wants to be asked; "
                "put its chat_template.jinja into the folder"
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
            # Given at once: transformers refuses to read some that contradict themselves.
            generation_config=None if own is None else plain(**own),
        )
        self.model = model.to(device).eval()
        self.overruled = overruled(folder)
        for part in self.model.modules():
            # Also of a part that the model has generate for it.
            if isinstance(said := getattr(part, "generation_config", None), GenerationConfig):
                part.generation_config = plain(**{name: getattr(said, name) for name in KEPT})
        self.folder = folder

    @property
    def positions(self) -> int | None:
        """How many tokens a prompt and its answer can have, where the model's config says so."""
        return position_limit(self.model.config.get_text_config())

    def render(self, sample: Sample) -> str:
        """The prompt of a sample by the model's template. Raises UserError where that leaves out an image."""
        mark = getattr(self.processor, "image_token", None)
        asked = messages(sample)
        # A mark in a question's own words is no image and no control token. transformers' `sanitize_control_tokens`
        # would keep the words as they are, but is young and not for every processor.
        asked[0]["content"][-1]["text"] = unmarked(sample.prompt, self.marks)
        text: str = self.processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        if mark and text.count(mark) < len(sample.images):
            raise UserError(
                f"{self.folder}: its chat template makes {text.count(mark)} of {len(sample.images)} image marks "
                f"({mark}); it must read content given as a list of parts"
            )
        return text

    def written(self, sample: Sample) -> Any:
        """What the processor is given of a sample: a prompt, or its parts where the processor knows text from marks."""
        parts = getattr(self.processor, "parts", None)
        return parts(messages(sample), add_generation_prompt=True) if parts else self.render(sample)

    def answer(
        self, samples: Sequence[Sample], images: Sequence[list[PIL.Image.Image]], max_new_tokens: int
    ) -> list[Answer]:
        """Greedy answers to samples whose images were decoded."""
        import torch

        texts = [self.written(sample) for sample in samples]
        begin = self.tokenizer.bos_token
        options: dict[str, Any] = {"return_tensors": "pt", "padding": True}
        if begin and isinstance(texts[0], str) and texts[0].startswith(begin):
            # The template has written it already.
            options["add_special_tokens"] = False
        shown = [list(one) for one in images]
        if any(shown):
            options["images"] = shown
        inputs = self.processor(text=texts, **options).to(self.model.device)
        for name, value in inputs.items():
            if torch.is_tensor(value) and value.is_floating_point():
                inputs[name] = value.to(self.model.dtype)
        length = inputs["input_ids"].shape[1]
        limit = self.positions
        counts = inputs["attention_mask"].sum(1).tolist()
        if limit is not None and max(counts) + max_new_tokens > limit:
            if len(samples) > 1:
                each = zip(samples, images, strict=True)
                return [one for sample, own in each for one in self.answer([sample], [own], max_new_tokens)]
            reason = f"{TOO_LONG}: {counts[0]} tokens and up to {max_new_tokens} of an answer, {limit} positions"
            return [Answer(samples[0].id, *_key(samples[0], self.overruled), "", counts[0], 0, "error", reason)]
        with torch.inference_mode():
            out = self.model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                max_new_tokens=max_new_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        written = out[:, length:]
        masks = inputs["attention_mask"]
        return [
            self._answer(sample, tokens.tolist(), int(mask.sum()))
            for sample, tokens, mask in zip(samples, written, masks, strict=True)
        ]

    def _answer(self, sample: Sample, tokens: list[int], asked: int) -> Answer:
        prompt, images = _key(sample, self.overruled)
        ends = self.model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        last = next((at for at, token in enumerate(tokens) if token in ends), len(tokens) - 1)
        tokens = tokens[: last + 1]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return Answer(sample.id, prompt, images, text, asked, len(tokens))


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


def answer_finished(
    model: FinishedModel,
    samples: Sequence[Sample],
    max_new_tokens: int,
    journal: Journal,
    progress: Progress | None = None,
    batch: int = 1,
    share: Share | None = None,
) -> list[Answer]:
    """Answer what has no answer yet, journalled batch by batch; the journal is finished in the end.

    The batches are those of the whole list, whatever has been answered, so that an interrupted run meets them
    again. A sample with an image that cannot be read fails (state `error`), and no other. `share`: this process's
    part of the batches, by default all; the journal is of its rank, and rank 0 finishes it and returns the answers.
    """
    share = share or Share()
    share.first(lambda: _held(journal, max_new_tokens))
    journal.hold_to(max_new_tokens)
    done = journal.done()
    # Questions with as many images as each other: processors want no ragged batches.
    order = sorted(range(len(samples)), key=lambda at: (len(samples[at].images), at))
    groups: list[list[int]] = []
    for at in order:
        if groups and len(groups[-1]) < batch and len(samples[groups[-1][0]].images) == len(samples[at].images):
            groups[-1].append(at)
        else:
            groups.append([at])
    counted, room = share.counter(), None if model.positions is None else model.positions - max_new_tokens
    for number in share.take([len(group) * (1 + len(samples[group[0]].images)) for group in groups]):
        asked = [samples[at] for at in groups[number]]
        if not all(_settled(done.get(sample.id), sample, model.overruled, room) for sample in asked):
            journal.append(_answer_group(model, asked, max_new_tokens))
        answered = counted(len(asked))
        if progress:
            progress(answered, len(samples))
    share.last(lambda: journal.finish(sample.id for sample in samples))
    share.end()
    if share.rank:
        return []
    done = journal.done()
    return [done[sample.id] for sample in samples]


def _held(journal: Journal, max_new_tokens: int) -> None:
    journal.hold_to(max_new_tokens)


def _answer_group(model: FinishedModel, asked: list[Sample], max_new_tokens: int) -> list[Answer]:
    loaded = [(sample, _images(sample)) for sample in asked]
    whole = [(sample, images) for sample, images in loaded if not isinstance(images, str)]
    answers = {}
    if whole:
        made = model.answer([sample for sample, _ in whole], [images for _, images in whole], max_new_tokens)
        answers = {answer.id: answer for answer in made}
    for sample, images in loaded:
        if isinstance(images, str):
            answers[sample.id] = Answer(sample.id, *_key(sample, model.overruled), "", 0, 0, "error", images)
    return [answers[sample.id] for sample in asked]
