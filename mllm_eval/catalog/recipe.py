"""The yaml of a recipe: everything that is held equal between encoders, and which of it the paper does not state."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from mllm_eval.catalog.colour import colour
from mllm_eval.catalog.encoder import Mode
from mllm_eval.catalog.templates import TEMPLATES
from mllm_eval.config import Strict, short_hash
from mllm_eval.errors import UserError

# `exclude_if`: newer fields are left out of dumps while unset, so that hashes of older runs do not change.

Kernels = Literal["auto", "onednn", "torch"]


class ConversationData(Strict):
    """A training set in Cambrian's format: conversations (.jsonl or a .json array) and the folder of their images.

    `storage.locate` resolves both paths.

    Attributes:
        rows: number of rows of the file, checked if given.
        about: number of rows according to its source; only for planning before the file is downloaded.
        exclude: rows whose image name matches one of these patterns (`*laion*`, case-insensitive) are left out. They
            do not count towards `skip_broken`.
        system: `row` uses a row's own system prompt, `template` the template's for all rows.
        skip_broken: number of unreadable rows, or rows with a missing image, that may be left out. Each is
            listed in the run's folder. One more stops the training.
        ignore: fields of rows and messages that may be present and are not read. A field named after a picture, a
            video or a sound cannot be ignored.
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
    """Low-rank adapters of the LLM's linear layers, with peft's terms.

    Attributes:
        r, alpha, dropout: rank, scale (alpha / r) and dropout of the adapters.
        targets: names of the linear layers with an adapter.
    """

    r: int = Field(gt=0)
    alpha: float = Field(gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], min_length=1
    )


class Stage(Strict):
    """One training stage: AdamW over the projector (stage 1), or over the projector and the LLM (stage 2).

    Attributes:
        batch: conversations per optimiser step over all processes; `micro_batch`: per forward pass of one process.
        steps: number of optimiser steps; if given, overrides `epochs`.
        warmup: share of the steps over which the learning rate rises.
        max_length: tokens of a conversation, image tokens included; longer ones are truncated.
        deepspeed: name of a native JSON file in configs/deepspeed; None trains without DeepSpeed.
        lora: train adapters of the LLM instead of its weights; the checkpoint has them merged.
        projector_lr: learning rate of the projector, if it differs from `lr`.
        features: `store` encodes each image once and keeps its features on disk; `live` runs the frozen encoder
            in every step, for training sets whose features do not fit on disk.
        kernels: `liger` trains the LLM with Liger's fused kernels on a GPU; they round differently.
        order: which rows share a step. `random`: any; `modality`: only rows with an image, or only rows without;
            `length`: rows of similar length, which gives rows of a rare length more weight. The default is `length`,
            because older recipes were trained with it.
        last_step: the rows of an epoch after its last full batch. `drop` leaves them out of that epoch; `fill`
            completes the batch with the epoch's first rows, as transformers' Trainer does by default.
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
        """Number of optimiser steps for a number of usable rows."""
        if self.steps is not None:
            return self.steps
        an_epoch = -(-rows // self.batch) if self.last_step == "fill" else rows // self.batch
        return max(1, round(self.epochs * an_epoch))

    def accumulation(self, processes: int, where: str) -> int:
        """Micro-batches per step on each process. Raises UserError if the batch cannot be divided equally."""
        if self.batch % (self.micro_batch * processes):
            raise UserError(
                f"{where}: batch {self.batch} is not a multiple of micro_batch {self.micro_batch} x {processes} "
                "processes; change one of them"
            )
        return self.batch // (self.micro_batch * processes)


class Recipe(Strict):
    """How every encoder of a comparison is trained and evaluated: one yaml in configs/recipes.

    Any value that the paper does not state may be written `{value: x, assumed: "source"}`. The field then holds x, and
    `assumed()` lists the source.

    Attributes:
        llm: the default LLM.
        template: conversation template (`mllm_eval.prompts`), the same in training and evaluation.
        tokens: image tokens that the LLM sees of an image; a square number.
        data: data pin of the benchmarks (`mini`, `hub`).
        standardize: whether the projector's input is standardised per dimension.
        features_dtype: dtype of the stored features, if not `dtype`; it halves or doubles their size and rounds them.
        upright: whether training images are rotated as their EXIF orientation says; LLaVA's and Cambrian's training
            code does not. Benchmark images always are, as in `datasets`.
        images: how images are made square, instead of the encoder's own mode, for encoders named without a variant;
            the `interpolation` of the encoder's variant of that mode is used, if it has one.
        final_norm: whether features are taken after the encoder's final norm; overrides the encoder's yaml.
        l2_normalize: scale each image token's features to length 1 before the projector.
        row_token: append a learned embedding to each row of image tokens, one more token per row.
        padding: `hide` does not show the LLM the image tokens of the padding around a picture; `max_length` counts
            them nevertheless.
        dummy_image: truncate rows without an image to `max_length` as if they contained one.
        deterministic: whether training on a GPU repeats every sum in the same order, so that a second training gives
            the same bytes. An operation without such a kernel is an error.
        kernels: what multiplies the float32 matrices of linear layers on a CPU: `onednn`, or `torch` for torch's own
            choice (MKL or OpenBLAS). They round differently. `auto`: `onednn` on CPUs with AVX-512, else `torch`.
        background: colour under transparent training images; null drops their alpha channel, as LLaVA's and
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
        """LLM positions of an image of which everything is shown: image tokens and row tokens."""
        return self.tokens + (math.isqrt(self.tokens) if self.row_token else 0)

    @property
    def dummy_positions(self) -> int:
        """Positions of `max_length` that rows without an image leave free."""
        return self.positions if self.dummy_image else 0

    def assumed(self) -> dict[str, str]:
        """Map each field that the paper does not state to the source of its value."""
        return dict(self.assumptions)

    def identity(self) -> dict[str, Any]:
        """The fields that can change a result, except `llm` and `seed`, which the run adds itself."""
        fields = self.model_dump(mode="json", exclude={"assumptions", "llm", "seed"})
        if self.dtype == "bfloat16" and (self.stage1.deepspeed or self.stage2.deepspeed):
            # Changes the hash: older versions summed the gradients of micro-batches in bfloat16.
            fields["gradients"] = "float32"
        known = TEMPLATES.get(self.template)
        return fields if known is None or known.tokens == 1 else {**fields, "template_tokens": known.tokens}

    @property
    def hash(self) -> str:
        """12 hex digits of `identity()`; equal for all rows of a table."""
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
