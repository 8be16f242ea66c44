"""Memory of one GPU while a stage trains. All sizes are in bytes; docs/plan.md has the formulas and sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mllm_eval.operations.shapes import EncoderShape, LlamaShape, ProjectorShape

Zero = Literal[0, 2, 3]
FULL = 4
ADAM = 8
"""AdamW's two float32 moments, in bytes per parameter."""
SUB_GROUP = 10**9
"""Parameters per process that ZeRO-3 updates at a time (DeepSpeed's `sub_group_size`)."""
ENCODING = 12
"""Largest memory of an encoder's forward pass without gradients, in widths per token: the tensors of one block."""


@dataclass(frozen=True)
class Precision:
    """Bytes per number: `weights` as stored, `compute` in matrix products.

    float32, with or without DeepSpeed: 4 and 4. bfloat16 under DeepSpeed: 2 and 2, with a float32 copy in the
    optimiser. bfloat16 without DeepSpeed is torch's autocast: 4 and 2.
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
    """Weights, gradients and optimiser states on one GPU, in bytes. host: bytes in the memory of one node.

    stepping: extra memory of the optimiser step, when no activations exist. gathered: extra memory of the passes.
    """

    weights: int
    gradients: int
    optimiser: int
    stepping: int
    gathered: int
    host: int = 0

    @property
    def lasting(self) -> int:
        """Bytes that stay from step to step."""
        return self.weights + self.gradients + self.optimiser

    def peak(self, activations: int) -> int:
        """Largest memory: during the passes, with the gathered parameters, or during the optimiser step."""
        return self.lasting + max(self.stepping, self.gathered + activations)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of parameters: trained, frozen, those of the largest module, and those of a live encoder, which always
    has the recipe's `dtype`."""

    trained: int
    frozen: int = 0
    largest: int = 0
    encoder: int = 0


def states(parameters: Parameters, dtype: str, zero: Zero, gpus: int, nodes: int = 1, offload: bool = False) -> States:
    """Memory of weights, gradients and AdamW states over `gpus` processes.

    ZeRO as in Rajbhandari et al. 2020 (arXiv 1910.02054): stage 2 shards gradients and optimiser states, stage 3 also
    the weights. Gradients are summed in float32. The optimiser step has a float32 copy of the gradients. During the
    passes of ZeRO-3 the largest module is gathered with its gradient, as in DeepSpeed's own estimators. With
    `offload`, gradients and optimiser states are in host memory.
    """
    trained, frozen = parameters.trained, parameters.frozen
    precision = Precision.of(dtype, zero)
    size = precision.weights
    weights = size * (trained + frozen) + precision.compute * parameters.encoder
    if zero == 0:
        cast = 0 if dtype == "float32" else 2 * (trained + frozen)
        return States(weights, size * trained, ADAM * trained, 0, cast)
    # ZeRO's optimiser updates a flat float32 copy of the weights, whatever their dtype is.
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
    """Bytes of host memory in which each process loads its weights before they are moved to its GPU."""
    size = Precision.of(dtype, 2 if deepspeed else 0)
    return size.weights * (trained + frozen) + size.compute * encoder


def checkpoint(trained: int, dtype: str, deepspeed: bool) -> int:
    """Bytes of a stage's checkpoint, over all processes: optimiser states and weights of the trained parameters.

    Under DeepSpeed the states contain the float32 weights, and the weights in the computing dtype are saved as well.
    """
    size = Precision.of(dtype, 2 if deepspeed else 0)
    return (ADAM + size.weights + (FULL if deepspeed else 0)) * trained


def _share(whole: int, parts: int) -> int:
    return -(-whole // parts)


@dataclass(frozen=True)
class Activations:
    """Activations of one micro-batch, in bytes.

    kept: what the forward pass keeps for the backward pass. logits: additional memory at the loss, over the vocabulary
    at all targets. again: memory of a block's backward pass; with gradient checkpointing it includes the block's
    recomputed activations. encoder: memory of a live encoder's pass, before anything is kept.
    """

    kept: int
    logits: int
    again: int
    encoder: int = 0

    @property
    def peak(self) -> int:
        """Largest memory: at the loss, in a block's backward pass, or in the encoder."""
        return max(self.kept + max(self.logits, self.again), self.encoder)


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch: `tokens` positions in total, `images` images of `image_tokens` each, and `targets` targets."""

    tokens: int
    images: int
    image_tokens: int
    targets: int


@dataclass(frozen=True)
class Adapters:
    """LoRA in one block: sum of the input widths, number of adapters, rank, and whether they use dropout."""

    inputs: int
    count: int
    rank: int
    dropout: bool


@dataclass(frozen=True, slots=True)
class Passes:
    """What the passes of a training step do.

    train_llm: the LLM's own weights are trained. checkpointing: blocks are recomputed in the backward pass.
    adapters: LoRA, if used. encoder: a live encoder, if used.
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
    """Activations of a micro-batch in this project's training step with torch's fused attention.

    Counted tensor by tensor as in Korthikanti et al. 2022 (arXiv 2205.05198), whose layer has no RMSNorm, SwiGLU or
    fused attention. A frozen matrix does not keep its input, because it needs no gradient.
    """
    train_llm, encoder = passes.train_llm, passes.encoder
    block = _block(llm, precision, train_llm, passes.adapters)
    # The residual stream is float32 under autocast.
    stream = precision.weights * llm.width
    tail = _norm(llm, precision, train_llm) - (precision.compute * llm.width if train_llm else 0)
    e = precision.compute
    # The projector keeps its input, and the input and output of each GELU.
    inner = (projector.layers - 1) * 2 * e * projector.out
    projected = batch.images * batch.image_tokens * (e * projector.width + inner)
    # Softmax over the vocabulary in float32, and the hidden states at the targets if the output layer is trained.
    loss = batch.targets * (FULL * llm.vocab + (e * llm.width if train_llm else 0) + tail)
    around = projected + loss
    # The backward pass has two more tensors over the vocabulary: the gradients of the softmax and of its input.
    logits = batch.targets * llm.vocab * 2 * FULL
    # A block's backward pass has gradients of the residual stream and of the factors in its MLP.
    passing = batch.tokens * e * (2 * llm.width + (1 if train_llm else 2) * llm.hidden)
    seen = 0 if encoder is None else batch.images * (encoder.tokens + 1) * encoder.width * e * ENCODING
    if passes.checkpointing:
        kept = around + batch.tokens * llm.depth * stream
        return Activations(kept, logits, batch.tokens * block + passing, seen)
    # The last block computes queries, attention and MLP only at the targets.
    last = batch.targets * block + (batch.tokens - batch.targets) * _norm(llm, precision, train_llm)
    kept = around + batch.tokens * (llm.depth - 1) * block + last
    return Activations(kept, logits, passing, seen)


def _norm(llm: LlamaShape, precision: Precision, train: bool) -> int:
    """Bytes per token of an RMSNorm: input in float32, the root; if trained, also the normed input and the output."""
    kept = FULL * llm.width + FULL
    if train:
        kept += (precision.weights + precision.compute) * llm.width
    return kept


def _block(llm: LlamaShape, precision: Precision, train: bool, adapters: Adapters | None = None) -> int:
    """Bytes per token of a block: two norms; queries, keys, values, attention output and log-sum; MLP; adapters.

    Keys and values are counted as attention reads them, repeated for all queries that share them.
    """
    e = precision.compute
    attention = e * 4 * llm.attention + FULL * llm.heads
    # Input and output of SiLU, and the other factor; if trained, also their product, the input of the last matrix.
    mlp = e * llm.hidden * (4 if train else 3)
    # Rows are concatenated again before the output matrix, which keeps this copy as its input if it is trained.
    joined = e * llm.attention if train else 0
    recast = 0
    if train and precision.weights != precision.compute:
        # Autocast copies the input for each matrix: two more for attention, and one more for the MLP, than in `_norm`.
        recast = 3 * e * llm.width
    added = 0
    if adapters is not None:
        # With dropout each adapter keeps its own input copy and mask. All keep the output of their first matrix.
        own = (e + 1) * adapters.inputs if adapters.dropout else e * (2 * llm.width + llm.attention + llm.hidden)
        added = own + e * adapters.count * adapters.rank
    return 2 * _norm(llm, precision, train) + attention + mlp + joined + recast + added
