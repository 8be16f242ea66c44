"""Bytes on one GPU while a stage trains. All sizes in bytes; formulas and sources in docs/plan.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mllm_eval.operations.shapes import EncoderShape, LlamaShape, ProjectorShape

Zero = Literal[0, 2, 3]
FULL = 4
ADAM = 8
"""Two float32 moments a parameter."""
SUB_GROUP = 10**9
"""Parameters of a process that ZeRO-3 steps at a time (DeepSpeed's `sub_group_size`)."""
ENCODING = 12
"""Widths of a token that an encoder's pass without gradients holds at most: a block's own, before and behind."""


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
    """What holds weights and what trains them, on one GPU; `host` is what lies in one node's own memory.

    stepping: there while the optimiser steps, when no activations are. gathered: there during the passes alone.
    """

    weights: int
    gradients: int
    optimiser: int
    stepping: int
    gathered: int
    host: int = 0

    @property
    def lasting(self) -> int:
        """What stays from step to step."""
        return self.weights + self.gradients + self.optimiser

    def peak(self, activations: int) -> int:
        """The most at one time: in the passes, with what is gathered for them, or while the optimiser steps."""
        return self.lasting + max(self.stepping, self.gathered + activations)


@dataclass(frozen=True, slots=True)
class Parameters:
    """How many there are: trained, frozen, in the largest module; and of a live encoder, which is held in the recipe's
    `dtype` whatever the rest is."""

    trained: int
    frozen: int = 0
    largest: int = 0
    encoder: int = 0


def states(parameters: Parameters, dtype: str, zero: Zero, gpus: int, nodes: int = 1, offload: bool = False) -> States:
    """Weights, gradients and AdamW states of parameters over `gpus` processes.

    ZeRO as in Rajbhandari et al. 2020 (arXiv 1910.02054): stage 2 shares out gradients and optimiser, stage 3
    weights too; gradients are summed in float32. While the optimiser steps there is a float32 copy of the gradients;
    during the passes of ZeRO-3 the largest module is gathered with its gradient, as DeepSpeed's own estimators
    count it. With `offload`, gradients and optimiser are on the host.
    """
    trained, frozen = parameters.trained, parameters.frozen
    precision = Precision.of(dtype, zero)
    size = precision.weights
    weights = size * (trained + frozen) + precision.compute * parameters.encoder
    if zero == 0:
        cast = 0 if dtype == "float32" else 2 * (trained + frozen)
        return States(weights, size * trained, ADAM * trained, 0, cast)
    # Under ZeRO the optimiser steps a flat float32 copy, whatever the weights are.
    optimiser, step = (FULL + ADAM) * trained, FULL * trained
    gathered = 0
    if zero == 3:
        weights = _share(weights, gpus)
        gathered = 2 * size * parameters.largest
    if offload:
        return States(weights, 0, 0, 0, gathered, _share(optimiser + step, nodes))
    stepping = _share(step, gpus)
    if zero == 3:
        stepping = min(stepping, FULL * SUB_GROUP)
    return States(weights, _share(FULL * trained, gpus), _share(optimiser, gpus), stepping, gathered)


def loading(trained: int, frozen: int, dtype: str, deepspeed: bool, encoder: int = 0) -> int:
    """Bytes of its machine's memory in which each process loads its weights, before they go to its GPU."""
    size = Precision.of(dtype, 2 if deepspeed else 0)
    return size.weights * (trained + frozen) + size.compute * encoder


def checkpoint(trained: int, dtype: str, deepspeed: bool) -> int:
    """Bytes of a checkpoint of a stage, over all processes: of what is trained the optimiser's state and the weights.

    Under DeepSpeed the state holds the float32 weights; those in the computing type are written once more.
    """
    size = Precision.of(dtype, 2 if deepspeed else 0)
    return (ADAM + size.weights + (FULL if deepspeed else 0)) * trained


def _share(whole: int, parts: int) -> int:
    return -(-whole // parts)


@dataclass(frozen=True)
class Activations:
    """What the forward pass keeps for the backward pass, of one micro-batch.

    `kept`: at the end of the forward pass. `logits`: the rest of the loss's peak, over the words at all targets.
    `again`: what the backward pass of a block takes at a time, with gradient checkpointing its activations made again.
    `encoder`: what a live encoder's pass takes, before anything is kept.
    """

    kept: int
    logits: int
    again: int
    encoder: int = 0

    @property
    def peak(self) -> int:
        """The most at one time: at the loss, in a block's backward pass, or in the encoder."""
        return max(self.kept + max(self.logits, self.again), self.encoder)


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch: `tokens` positions in all, `images` images of `image_tokens` of them, `targets` targets."""

    tokens: int
    images: int
    image_tokens: int
    targets: int


@dataclass(frozen=True)
class Adapters:
    """LoRA of a block: the widths of all inputs, how many there are, their rank, and whether they drop inputs out."""

    inputs: int
    count: int
    rank: int
    dropout: bool


@dataclass(frozen=True, slots=True)
class Passes:
    """What the passes of a step do.

    train_llm: the LLM's own weights are trained. checkpointing: blocks are computed once more in the backward pass.
    adapters: LoRA's, where there are any. encoder: a live one.
    """

    train_llm: bool
    checkpointing: bool = False
    adapters: Adapters | None = None
    encoder: EncoderShape | None = None


def activations(
    llm: LlamaShape,
    projector: ProjectorShape,
    batch: MicroBatch,
    precision: Precision,
    passes: Passes,
) -> Activations:
    """The activations of a micro-batch, as this project's step with torch's fused attention keeps them.

    Counted tensor by tensor in the manner of Korthikanti et al. 2022 (arXiv 2205.05198), whose layer has
    neither RMSNorm nor SwiGLU nor fused attention. A frozen matrix keeps no input: its gradient is not wanted.
    """
    train_llm, encoder = passes.train_llm, passes.encoder
    block = _block(llm, precision, train_llm, passes.adapters)
    # The residual stream is float32 under autocast.
    stream = precision.weights * llm.width
    tail = _norm(llm, precision, train_llm) - (precision.compute * llm.width if train_llm else 0)
    e = precision.compute
    # The projector keeps its input, and before and behind each GELU.
    inner = (projector.layers - 1) * 2 * e * projector.out
    projected = batch.images * batch.image_tokens * (e * projector.width + inner)
    # Softmax over the words in float32; the hidden states at the targets where the words are trained.
    loss = batch.targets * (FULL * llm.vocab + (e * llm.width if train_llm else 0) + tail)
    around = projected + loss
    # Backward holds two more tensors over the words: the gradient of the softmax, and that of its input.
    logits = batch.targets * llm.vocab * 2 * FULL
    # A block's backward pass: gradients of the stream, and of what its MLP multiplies.
    passing = batch.tokens * e * (2 * llm.width + (1 if train_llm else 2) * llm.hidden)
    seen = 0 if encoder is None else batch.images * (encoder.tokens + 1) * encoder.width * e * ENCODING
    if passes.checkpointing:
        kept = around + batch.tokens * llm.depth * stream
        return Activations(kept, logits, batch.tokens * block + passing, seen)
    # The last block's queries, attention and MLP are computed at targets alone.
    last = batch.targets * block + (batch.tokens - batch.targets) * _norm(llm, precision, train_llm)
    kept = around + batch.tokens * (llm.depth - 1) * block + last
    return Activations(kept, logits, passing, seen)


def _norm(llm: LlamaShape, precision: Precision, train: bool) -> int:
    """RMSNorm, a token: its input in float32, the root; where trained, the normed input and the output."""
    kept = FULL * llm.width + FULL
    if train:
        kept += (precision.weights + precision.compute) * llm.width
    return kept


def _block(llm: LlamaShape, precision: Precision, train: bool, adapters: Adapters | None = None) -> int:
    """A block, a token: two norms; queries, keys, values, the attended and its log-sum; gate and MLP; adapters.

    Keys and values are kept as attention reads them, repeated for all the queries that share them.
    """
    e = precision.compute
    attention = e * 4 * llm.attention + FULL * llm.heads
    # silu's input and output and what it gates; where trained, their product, which the last matrix reads.
    mlp = e * llm.hidden * (4 if train else 3)
    # Rows are put one after another again before the output's matrix, which reads that.
    joined = e * llm.attention if train else 0
    recast = 0
    if train and precision.weights != precision.compute:
        # Autocast makes a copy for each matrix that reads: three more for attention, one more for the MLP.
        recast = 3 * e * llm.width
    added = 0
    if adapters is not None:
        # Each drops out a copy of its input of its own, and keeps what it dropped and the product of its first half.
        own = (e + 1) * adapters.inputs if adapters.dropout else e * (2 * llm.width + llm.attention + llm.hidden)
        added = own + e * adapters.count * adapters.rank
    return 2 * _norm(llm, precision, train) + attention + mlp + joined + recast + added
