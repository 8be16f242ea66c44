"""What a recipe is: all that is held equal between encoders, and what of it the paper does not state."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from mllm_eval.catalog.colour import colour
from mllm_eval.catalog.encoder import Mode
from mllm_eval.catalog.templates import TEMPLATES
from mllm_eval.config import Strict, short_hash
from mllm_eval.errors import UserError

# `exclude_if`: a field that came later is not dumped while unset, so that older runs keep their hash.

Kernels = Literal["auto", "onednn", "torch"]


class ConversationData(Strict):
    """A training set in Cambrian's format: conversations (.jsonl or a .json array) and their images' folder.

    Both are read by `storage.locate`.

    Attributes:
        rows: number of rows of the file, if it is to be checked.
        about: so many rows its source speaks of; only for planning before the file is here.
        exclude: rows that show an image whose name fits one of these patterns (`*laion*`, upper and lower case
            alike) are left out; they are counted before `skip_broken` is.
        system: `row` uses a row's own system prompt, `template` the template's for all rows.
        skip_broken: so many rows that cannot be read, or whose image is missing, may be left out; each is
            listed in the run's folder. One more stops the training.
        ignore: fields of rows and messages that may stand there and are not read; never one that is called after
            a picture, a video or a sound.
    """

    path: str
    images: str
    rows: int | None = Field(default=None, gt=0)
    about: int | None = Field(default=None, gt=0, exclude_if=lambda value: value is None)
    exclude: list[str] = Field(default_factory=list, exclude_if=lambda value: not value)
    system: Literal["row", "template"] = Field(default="row", exclude_if=lambda value: value == "row")
    skip_broken: int = Field(default=0, ge=0, exclude_if=lambda value: value == 0)
    ignore: list[str] = Field(default_factory=list, exclude_if=lambda value: not value)


class Lora(Strict):
    """Low-rank adapters of the LLM's linear layers, in peft's words.

    Attributes:
        r, alpha, dropout: rank, scale (alpha / r) and dropout of the adapters.
        targets: names of the linear layers that get one.
    """

    r: int = Field(gt=0)
    alpha: float = Field(gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], min_length=1
    )


class Stage(Strict):
    """One stage of training: AdamW over the projector (stage 1) or projector and LLM (stage 2).

    Attributes:
        batch: conversations per optimiser step over all processes; `micro_batch`: at a time on one process.
        steps: if given, overrides `epochs`.
        warmup: share of the steps over which the learning rate rises.
        max_length: tokens of a conversation, image tokens included; longer ones are cut.
        deepspeed: name of a native JSON file in configs/deepspeed, or none for plain training.
        lora: train adapters of the LLM instead of its weights; they are merged in the checkpoint.
        projector_lr: learning rate of the projector where it differs from `lr`.
        features: `store` encodes each image once and keeps its features on disk; `live` runs the frozen encoder
            in every step, where the features of all images would not fit.
        kernels: `liger` trains the LLM with Liger's fused kernels, on a GPU; they round otherwise.
        order: which rows make a step. `random`: any; `modality`: all with an image, or all text alone; `length`: of
            like length, which gives rows of a rare length more weight. It is `length` where a recipe names none, as
            it was before there was a choice.
        last_step: an epoch's rows beyond its last whole batch: `drop` leaves them out of that epoch, `fill` makes a
            batch of them with rows of the epoch's beginning, as transformers' Trainer does unless told otherwise.
    """

    data: list[ConversationData] = Field(min_length=1)
    lr: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    batch: int = Field(gt=0)
    micro_batch: int = Field(gt=0)
    epochs: float = Field(default=1.0, gt=0)
    steps: int | None = Field(default=None, gt=0)
    warmup: float = Field(ge=0, lt=1)
    schedule: str = "cosine"
    max_length: int = Field(gt=0)
    deepspeed: str | None = None
    gradient_checkpointing: bool = False
    lora: Lora | None = None
    train_llm: bool
    adam_beta2: float = Field(default=0.999, gt=0, lt=1)
    max_grad_norm: float = Field(default=1.0, gt=0)
    projector_lr: float | None = Field(default=None, gt=0)
    features: Literal["store", "live"] = Field(default="store", exclude_if=lambda value: value == "store")
    kernels: Literal["liger"] | None = Field(default=None, exclude_if=lambda value: value is None)
    order: Literal["random", "modality", "length"] = Field(default="length", exclude_if=lambda value: value == "length")
    last_step: Literal["drop", "fill"] = Field(default="drop", exclude_if=lambda value: value == "drop")

    @model_validator(mode="after")
    def _batch_divides(self) -> Stage:
        if self.batch % self.micro_batch:
            raise ValueError(f"`batch` {self.batch} is not a multiple of `micro_batch` {self.micro_batch}")
        if self.lora is not None and not self.train_llm:
            raise ValueError("`lora` trains the LLM, which `train_llm: false` leaves alone; change one of them")
        return self

    def steps_for(self, rows: int) -> int:
        """Optimiser steps over so many usable rows."""
        if self.steps is not None:
            return self.steps
        an_epoch = -(-rows // self.batch) if self.last_step == "fill" else rows // self.batch
        return max(1, round(self.epochs * an_epoch))

    def accumulation(self, processes: int, where: str) -> int:
        """Micro-batches per step on one of so many processes. Raises UserError where the batch does not divide."""
        if self.batch % (self.micro_batch * processes):
            raise UserError(
                f"{where}: batch {self.batch} is not a multiple of micro_batch {self.micro_batch} x {processes} "
                "processes; change one of them"
            )
        return self.batch // (self.micro_batch * processes)


class Recipe(Strict):
    """How every encoder of a comparison is adapted and asked: one yaml in configs/recipes.

    Any leaf may be written `{value: x, assumed: "source"}` where the paper does not state it; the field then
    holds x and `assumed()` lists the source.

    Attributes:
        llm: the LLM used unless another is asked for.
        template: conversation template (`mllm_eval.prompts`), the same in training and evaluation.
        tokens: visual tokens the LLM sees of an image; a square number.
        data: which data pin of the benchmarks is asked (`mini`, `hub`).
        standardize: whether the projector's input is standardised per dimension.
        features_dtype: in what the encoder's features are stored, where not in `dtype`; it halves or doubles their
            size and rounds them.
        upright: whether training images are turned as their EXIF orientation says; LLaVA's and Cambrian's training code
            does not. Benchmarks' images always are, as `datasets` gives them.
        images: how images become square where an encoder is named without a variant of its own, instead of as its yaml
            says; with the `interpolation` of the encoder's variant of that mode, where it has one.
        final_norm: whether features are taken behind the encoder's final norm, instead of as its yaml says.
        l2_normalize: each visual token's features are scaled to length 1 before the projector.
        row_token: a learned embedding stands behind each row of an image's visual tokens, one more a row.
        padding: `hide` shows the LLM no visual token of the rim that pads a picture to a square; `max_length` counts
            them all the same.
        dummy_image: rows without an image are cut to `max_length` as if they showed one.
        deterministic: whether every sum of a training on a GPU is done in the same order each time, so that training
            again gives the same bytes; what has no such kernel is an error instead of a rounding.
        kernels: what multiplies the float32 matrices of linear layers on a CPU: `onednn`, or `torch` for torch's own
            choice (MKL or OpenBLAS). They round otherwise. `auto`: `onednn` on processors with AVX-512, else `torch`.
        background: the colour that transparent training images are laid on; null drops their alpha, as LLaVA's and
            Cambrian's training code does.
    """

    name: str
    llm: str
    template: str
    tokens: int = Field(gt=0)
    projector: str = "mlp2x_gelu"
    data: str
    dtype: Literal["float32", "bfloat16"]
    seed: int = Field(ge=0)
    stage1: Stage
    stage2: Stage
    standardize: bool = False
    features_dtype: Literal["float32", "float16", "bfloat16"] | None = Field(
        default=None, exclude_if=lambda value: value is None
    )
    images: Mode | None = Field(default=None, exclude_if=lambda value: value is None)
    final_norm: bool | None = Field(default=None, exclude_if=lambda value: value is None)
    l2_normalize: bool = Field(default=False, exclude_if=lambda value: not value)
    row_token: bool = Field(default=False, exclude_if=lambda value: not value)
    padding: Literal["show", "hide"] = Field(default="show", exclude_if=lambda value: value == "show")
    dummy_image: bool = Field(default=False, exclude_if=lambda value: not value)
    upright: bool = Field(default=True, exclude_if=lambda value: value)
    deterministic: bool = Field(default=False, exclude_if=lambda value: not value)
    kernels: Kernels = Field(default="auto", exclude_if=lambda value: value == "auto")
    background: str | None = Field(default=None, exclude_if=lambda value: value is None)
    assumptions: dict[str, str] = Field(default_factory=dict)

    _background = field_validator("background", mode="after")(colour)

    @model_validator(mode="before")
    @classmethod
    def _take_assumptions(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        sources: dict[str, str] = {}
        plain = {key: _strip(value, key, sources) for key, value in data.items() if key != "assumptions"}
        return {**plain, "assumptions": {**(data.get("assumptions") or {}), **sources}}

    @field_validator("tokens")
    @classmethod
    def _square(cls, tokens: int, _: ValidationInfo) -> int:
        if math.isqrt(tokens) ** 2 != tokens:
            raise ValueError("the token budget must be a square number, such as 36 or 576")
        return tokens

    @property
    def positions(self) -> int:
        """Positions of the LLM that an image of which all is shown takes: its visual tokens and its row tokens."""
        return self.tokens + (math.isqrt(self.tokens) if self.row_token else 0)

    @property
    def dummy_positions(self) -> int:
        """Positions of `max_length` that are kept free in rows without an image."""
        return self.positions if self.dummy_image else 0

    def assumed(self) -> dict[str, str]:
        """Field -> source of each value that the paper does not state."""
        return dict(self.assumptions)

    def identity(self) -> dict[str, Any]:
        """The fields that can change a result, apart from `llm` and `seed`, which a run resolves itself."""
        fields = self.model_dump(mode="json", exclude={"assumptions", "llm", "seed"})
        if self.dtype == "bfloat16" and (self.stage1.deepspeed or self.stage2.deepspeed):
            # Micro-batches were summed in bfloat16 before.
            fields["gradients"] = "float32"
        known = TEMPLATES.get(self.template)
        return fields if known is None or known.tokens == 1 else {**fields, "template_tokens": known.tokens}

    @property
    def hash(self) -> str:
        """12 hex digits of `identity()`: rows of one table share it."""
        return short_hash(self.identity())


def _strip(value: Any, at: str, assumed: dict[str, str]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"value", "assumed"}:
            assumed[at] = str(value["assumed"])
            return value["value"]
        return {key: _strip(inner, f"{at}.{key}", assumed) for key, inner in value.items()}
    if isinstance(value, list):
        return [_strip(inner, f"{at}.{index}", assumed) for index, inner in enumerate(value)]
    return value
