"""Bytes on one GPU while a stage trains. All sizes in bytes; formulas and sources in docs/plan.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mllm_eval.operations.shapes import LlamaShape, ProjectorShape

Zero = Literal[0, 2, 3]
FULL = 4
ADAM = 8
"""Two float32 moments a parameter."""


@dataclass(frozen=True)
class Precision:
    """Bytes of a number: `weights` as they are held, `compute` as the products see them.

    float32 without or with DeepSpeed: 4 and 4. bfloat16 under DeepSpeed: 2 and 2, with a float32 copy beside
    the moments. bfloat16 without it is torch's autocast: 4 and 2.
    """

    weights: int
    compute: int

    @classmethod
    def of(cls, dtype: str, zero: Zero) -> Precision:
        if dtype == "float32":
            return cls(4, 4)
        return cls(2, 2) if zero else cls(4, 2)


@dataclass(frozen=True)
class States:
    """What holds weights and what trains them, on one GPU; `host` is what lies in one node's own memory."""

    weights: int
    gradients: int
    optimiser: int
    passing: int
    host: int = 0

    @property
    def gpu(self) -> int:
        return self.weights + self.gradients + self.optimiser + self.passing


def states(
    trained: int, frozen: int, largest: int, dtype: str, zero: Zero, gpus: int, nodes: int = 1, offload: bool = False
) -> States:
    """Weights, gradients and AdamW states of `trained` and `frozen` parameters over `gpus` processes.

    ZeRO as in Rajbhandari et al. 2020 (arXiv 1910.02054): stage 2 shares out gradients and optimiser, stage 3
    weights too. `passing` is what is there for a while only: the step's float32 gradients under ZeRO, and the
    largest module gathered with its gradient under ZeRO-3, as DeepSpeed's own estimators count them. With
    `offload`, gradients and optimiser are on the host.
    """
    if zero == 0:
        size = Precision.of(dtype, zero).weights
        cast = 0 if dtype == "float32" else 2 * (trained + frozen)
        return States(size * (trained + frozen), size * trained, ADAM * trained, cast)
    size = Precision.of(dtype, zero).weights
    weights = size * (trained + frozen)
    # Under ZeRO the optimiser steps a flat float32 copy, whatever the weights are.
    optimiser, step = (FULL + ADAM) * trained, FULL * trained
    gathered = 0
    if zero == 3:
        weights = _share(weights, gpus)
        gathered = 2 * size * largest
    if offload:
        return States(weights, 0, 0, gathered, _share(optimiser + step, nodes))
    return States(weights, _share(size * trained, gpus), _share(optimiser, gpus), _share(step, gpus) + gathered)


def _share(whole: int, parts: int) -> int:
    return -(-whole // parts)


@dataclass(frozen=True)
class Activations:
    """What the forward pass keeps for the backward pass, of one micro-batch.

    `kept`: at the end of the forward pass. `logits`: the rest of the loss's peak, over the words at all targets.
    `again`: a block's activations, made again during the backward pass under gradient checkpointing.
    """

    kept: int
    logits: int
    again: int

    @property
    def peak(self) -> int:
        """The most at one time: at the loss, or in the block that is made again."""
        return self.kept + max(self.logits, self.again)


@dataclass(frozen=True)
class Batch:
    """A micro-batch: `tokens` positions in all, `images` images of `image_tokens` of them, `targets` targets."""

    tokens: int
    images: int
    image_tokens: int
    targets: int


def activations(
    llm: LlamaShape,
    projector: ProjectorShape,
    batch: Batch,
    precision: Precision,
    train_llm: bool,
    checkpointing: bool,
) -> Activations:
    """The activations of a micro-batch, as transformers' LLaMA with torch's fused attention keeps them.

    Counted tensor by tensor in the manner of Korthikanti et al. 2022 (arXiv 2205.05198), whose layer has
    neither RMSNorm nor SwiGLU nor fused attention. A frozen matrix keeps no input: its gradient is not wanted.
    """
    block = _block(llm, precision, train_llm)
    # The residual stream is float32 under autocast.
    stream = precision.weights * llm.width
    tail = _norm(llm, precision, train_llm) - (precision.compute * llm.width if train_llm else 0)
    e = precision.compute
    # The projector keeps its input, and before and behind each GELU.
    inner = (projector.layers - 1) * 2 * e * projector.out
    projected = batch.images * batch.image_tokens * (e * projector.width + inner)
    # Softmax over the words in float32; the hidden states at the targets where the words are trained.
    loss = batch.targets * (FULL * llm.vocab + (e * llm.width if train_llm else 0))
    around = projected + loss + batch.tokens * tail
    # The words in the computing type, and as float32 where that is another.
    logits = batch.targets * llm.vocab * (e if e == FULL else e + FULL)
    if checkpointing:
        return Activations(around + batch.tokens * llm.depth * stream, logits, batch.tokens * block)
    return Activations(around + batch.tokens * llm.depth * block, logits, 0)


def _norm(llm: LlamaShape, precision: Precision, train: bool) -> int:
    """RMSNorm, a token: its input in float32, the root; where trained, the normed input and the output."""
    kept = FULL * llm.width + FULL
    if train:
        kept += (precision.weights + precision.compute) * llm.width
    return kept


def _block(llm: LlamaShape, precision: Precision, train: bool) -> int:
    """A block, a token: two norms; queries, keys, values, the attended and its log-sum; gate and MLP."""
    e = precision.compute
    attention = e * 2 * (llm.attention + llm.keys) + FULL * llm.heads
    # silu's input and output and what it gates; where trained, their product, which the last matrix reads.
    mlp = e * llm.hidden * (4 if train else 3)
    recast = 0
    if train and precision.weights != precision.compute:
        # Autocast makes a copy for each matrix that reads: three more for attention, one more for the MLP.
        recast = 3 * e * llm.width
    return 2 * _norm(llm, precision, train) + attention + mlp + recast
