"""Floating-point operations of training, encoding and asking; a multiplication and an addition are two."""

from __future__ import annotations

from dataclasses import dataclass

from mllm_eval.operations.shapes import EncoderShape, LlamaShape, ProjectorShape


def encoding(encoder: EncoderShape, images: int) -> int:
    """The encoder's forward pass over images: 2 a weight and patch, and attention among the patches.

    Blocks behind the one that is read are not computed. The class token and norms are left out.
    """
    blocks = (encoder.params - encoder.positions - encoder.patches) * encoder.read // encoder.depth
    image = 2 * (encoder.patches + blocks) * encoder.tokens
    return images * (image + 4 * encoder.tokens**2 * encoder.width * encoder.read)


def projecting(projector: ProjectorShape, tokens: int) -> int:
    """The projector's forward pass over visual tokens."""
    return 2 * projector.params * tokens


@dataclass(frozen=True)
class Pass:
    """The LLM's forward pass: products with weights, attention, and the words at the targets."""

    matrices: int
    attention: int
    words: int

    @property
    def forward(self) -> int:
        return self.matrices + self.attention + self.words

    def training(self, trained: bool) -> int:
        """Forward and backward.

        The backward pass takes twice the forward's products: one for the gradient of the input, one for that
        of the weight, which a frozen matrix does without. Attention has no weights and always takes both.
        """
        weights = self.matrices + self.words
        return self.forward + 2 * self.attention + weights * (2 if trained else 1)


def passing(llm: LlamaShape, rows: int, tokens: int, targets: int, seen: int | None = None) -> Pass:
    """A pass over `rows` rows of `tokens` positions each, that choose words at `targets` positions each.

    Every position attends to `seen` positions (the row's own), the masked half counted as PaLM's appendix B
    (arXiv 2204.02311) does.
    """
    across = tokens if seen is None else seen
    return Pass(
        matrices=rows * tokens * 2 * llm.block * llm.depth,
        attention=rows * tokens * across * 4 * llm.attention * llm.depth,
        words=rows * targets * 2 * llm.vocab * llm.width,
    )


@dataclass(frozen=True, slots=True)
class Lessons:
    """What a stage trains on: `rows` of `tokens` positions each, `image_tokens` of them an image's, and words learnt at
    `targets` of them. `llm`: whether the LLM's own weights learn; `added`: parameters of LoRA, which learn instead."""

    rows: int
    tokens: int
    targets: int
    image_tokens: int
    llm: bool
    added: int = 0


def learning(llm: LlamaShape, projector: ProjectorShape, lessons: Lessons) -> int:
    """Forward and backward passes of a stage; recomputation is not counted."""
    flops = passing(llm, lessons.rows, lessons.tokens, lessons.targets).training(lessons.llm)
    # The projector's features want no gradient of their own, its weights do.
    flops += 3 * projecting(projector, lessons.rows * lessons.image_tokens)
    return flops + 6 * lessons.added * lessons.rows * lessons.tokens


@dataclass(frozen=True)
class Asking:
    """Work of answering one benchmark: images encoded once each, prefixes computed once an image, the rest."""

    encoder: int
    prompt: int
    answer: int
    steps: int

    @property
    def flops(self) -> int:
        return self.encoder + self.prompt + self.answer


@dataclass(frozen=True, slots=True)
class Questions:
    """`count` questions on `images`, which take `image_tokens` positions each; `text` tokens stand behind the image,
    and `answer` tokens are answered."""

    count: int
    images: int
    image_tokens: int
    text: int
    answer: int


def asking(
    llm: LlamaShape, projector: ProjectorShape, encoder: EncoderShape, asked: Questions, shared: bool = True
) -> Asking:
    """Answering questions.

    With `shared` (this project's engine), an image is encoded, and its tokens prefilled, once; without, once
    for each question, as a plain loop does it.
    """
    times = asked.images if shared else asked.count
    steps, before = max(0, asked.answer - 1), asked.image_tokens + asked.text
    prefix = passing(llm, times, asked.image_tokens, 0).forward + projecting(projector, times * asked.image_tokens)
    rest = passing(llm, asked.count, asked.text, 1, before).forward
    told = passing(llm, asked.count, steps, steps, before + asked.answer // 2).forward
    return Asking(encoding(encoder, times), prefix + rest, told, asked.count * steps)
