"""The interface of a judge of images, and its judgements. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import PIL.Image


NOT_FINITE = "the model's logits are not finite"


class Judgement(NamedTuple):
    """The judgement of an image, from the probabilities of the answer's first token.

    p_yes: P(yes) / (P(yes) + P(no)), each summed over the word's spellings. mass: P(yes) + P(no).
    """

    p_yes: float
    mass: float


class Judge(Protocol):
    """Answers one yes-no question about images."""

    batch: int
    """Number of images per batch."""

    @property
    def about(self) -> dict[str, Any]:
        """The judge's settings as plain data: all that can change a judgement besides the model's weights."""
        ...

    def prepare(self, image: PIL.Image.Image) -> Any:
        """Preprocesses an image; several threads call it at once. An error fails this image."""
        ...

    def judge(self, prepared: Sequence[Any]) -> list[Judgement | str]:
        """A judgement for each of at most `batch` images, or a text that says why there is none.

        After an error, each image of the batch is judged alone. Raises UserError for errors that concern all images.
        """
        ...
