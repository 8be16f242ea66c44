"""Floating-point operations of encoding, training and evaluation; a multiply-add counts as two."""

from __future__ import annotations

from dataclasses import dataclass

from mllm_eval.operations.shapes import EncoderShape, LlamaShape, ProjectorShape


def encoding(encoder: EncoderShape, images: int) -> int:
    """Return the operations of encoding images: 2 per weight and patch, plus attention among the patches.

    Blocks after the one whose output is used are not computed. Class token and norms are neglected.
    """
    blocks = (encoder.params - encoder.positions - encoder.patches) * encoder.read // encoder.depth
    image = 2 * (encoder.patches + blocks) * encoder.tokens
    return images * (image + 4 * encoder.tokens**2 * encoder.width * encoder.read)


def projecting(projector: ProjectorShape, tokens: int) -> int:
    """Return the operations of the projector's forward pass over image tokens."""
    return 2 * projector.params * tokens


@dataclass(frozen=True)
class Pass:
    """Operations of an LLM's forward pass: products with weights, attention, and the output layer at the targets."""

    matrices: int
    attention: int
    words: int

    @property
    def forward(self) -> int:
        """Operations of the forward pass."""
        return self.matrices + self.attention + self.words

    def training(self, trained: bool) -> int:
        """Return the operations of forward and backward pass; `trained`: whether the LLM's weights are trained.

        The backward pass takes twice the forward's products: one for the gradient of the input and one for that of
        the weight, which frozen matrices do not need. Attention has no weights and always takes both.
        """
        weights = self.matrices + self.words
        return self.forward + 2 * self.attention + weights * (2 if trained else 1)


def passing(llm: LlamaShape, rows: int, tokens: int, targets: int, seen: int | None = None) -> Pass:
    """Return the operations of a pass over `rows` rows of `tokens` positions, with logits at `targets` of them.

    Every position attends to `seen` positions (by default the row's `tokens`). The causally masked half is counted, as
    in appendix B of PaLM (arXiv 2204.02311).
    """
    across = tokens if seen is None else seen
    return Pass(
        matrices=rows * tokens * 2 * llm.block * llm.depth,
        attention=rows * tokens * across * 4 * llm.attention * llm.depth,
        words=rows * targets * 2 * llm.vocab * llm.width,
    )


@dataclass(frozen=True, slots=True)
class Lessons:
    """The size of a training stage.

    rows: number of rows. tokens, targets, image_tokens: positions, targets and image positions per row.
    llm: whether the LLM's own weights are trained. added: number of LoRA parameters trained in their place.
    """

    rows: int
    tokens: int
    targets: int
    image_tokens: int
    llm: bool
    added: int = 0


def learning(llm: LlamaShape, projector: ProjectorShape, lessons: Lessons) -> int:
    """Return the operations of a stage's forward and backward passes, without recomputation (checkpointing)."""
    flops = passing(llm, lessons.rows, lessons.tokens, lessons.targets).training(lessons.llm)
    # Three products per weight: forward, and the gradients of weight and input. The first layer's input needs none,
    # which is neglected.
    flops += 3 * projecting(projector, lessons.rows * lessons.image_tokens)
    return flops + 6 * lessons.added * lessons.rows * lessons.tokens


@dataclass(frozen=True)
class Asking:
    """Operations for answering one benchmark: `encoder`, `prompt` (prefill) and `answer` (decoding).

    steps: number of decoding steps after the first token, over all questions.
    """

    encoder: int
    prompt: int
    answer: int
    steps: int

    @property
    def flops(self) -> int:
        """Operations of encoding, prefill and decoding together."""
        return self.encoder + self.prompt + self.answer


@dataclass(frozen=True, slots=True)
class QuestionCounts:
    """The size of a benchmark.

    count: number of questions. images: number of distinct images. image_tokens: positions per image.
    text: tokens of a prompt after the image. answer: tokens per answer.
    """

    count: int
    images: int
    image_tokens: int
    text: int
    answer: int


def asking(
    llm: LlamaShape, projector: ProjectorShape, encoder: EncoderShape, asked: QuestionCounts, shared: bool = True
) -> Asking:
    """Return the operations for answering questions.

    With `shared`, as in this project's engine, each image is encoded and prefilled once; otherwise once per question.
    """
    times = asked.images if shared else asked.count
    steps, before = max(0, asked.answer - 1), asked.image_tokens + asked.text
    prefix = passing(llm, times, asked.image_tokens, 0).forward + projecting(projector, times * asked.image_tokens)
    rest = passing(llm, asked.count, asked.text, 1, before).forward
    told = passing(llm, asked.count, steps, steps, before + asked.answer // 2).forward
    return Asking(encoding(encoder, times), prefix + rest, told, asked.count * steps)
