"""What a judge of pictures is, and what its judgement is made of. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import PIL.Image


class Judgement(NamedTuple):
    """p_yes: P(yes) / (P(yes) + P(no)), each summed over its spellings as the answer's first token.
    mass: P(yes) + P(no): how much of the first token is an answer at all."""

    p_yes: float
    mass: float


class Judge(Protocol):
    """Answers one question about pictures with yes or no."""

    batch: int
    """Pictures that are judged together."""

    @property
    def about(self) -> dict[str, Any]:
        """How it judges, as plain data: what decides a judgement and is not in the model's bytes."""
        ...

    def prepare(self, image: PIL.Image.Image) -> Any:
        """What is needed of a picture; called by several threads at once."""
        ...

    def judge(self, prepared: Sequence[Any]) -> list[Judgement | str]:
        """A judgement a picture, of at most `batch`; a text says why there is none."""
        ...
