"""Floating-point operations of training, encoding and asking; a multiplication and an addition are two."""

from __future__ import annotations

from dataclasses import dataclass

from mllm_eval.plan.shapes import EncoderShape, LlamaShape, ProjectorShape


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


def asking(
    llm: LlamaShape,
    projector: ProjectorShape,
    encoder: EncoderShape,
    questions: int,
    images: int,
    image_tokens: int,
    text: int,
    answer: int,
    shared: bool = True,
) -> Asking:
    """Answering `questions` on `images`, each of `text` tokens behind the image and `answer` tokens of answer.

    With `shared` (this project's engine), an image is encoded, and its tokens prefilled, once; without, once
    for each question, as a plain loop does it.
    """
    times = images if shared else questions
    prefix = passing(llm, times, image_tokens, 0).forward + projecting(projector, times * image_tokens)
    rest = passing(llm, questions, text, 1, image_tokens + text).forward
    told = passing(llm, questions, max(0, answer - 1), max(0, answer - 1), image_tokens + text + answer // 2).forward
    return Asking(encoding(encoder, times), prefix + rest, told, questions * max(0, answer - 1))
