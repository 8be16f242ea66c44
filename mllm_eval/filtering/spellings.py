"""Finds the tokens that mean yes and no in a tokenizer's vocabulary. No torch."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mllm_eval.errors import UserError

# The longest text of a token that can be yes or no with marks and spaces; longer ones hold other words.
LONGEST = 24
WORDS = ("yes", "no")


@dataclass(frozen=True)
class Spellings:
    """The ids of the tokens that an answer of yes, or of no, may begin with.

    whole: whether each token is the whole word. If not, the tokenizer lacks a token for one of the words, and the ids
    are those of the first pieces of their spellings, without the pieces that both words begin with.
    """

    yes: tuple[int, ...]
    no: tuple[int, ...]
    whole: bool

    def texts(self, tokenizer: Any) -> dict[str, list[str]]:
        """The spellings as text, by word."""
        return {word: [_text(tokenizer, token) for token in getattr(self, word)] for word in WORDS}


def said(text: str) -> str:
    """A token's text without surrounding spaces and punctuation, in lower case and NFKC form."""
    return unicodedata.normalize("NFKC", text).strip(string.whitespace + string.punctuation).casefold()


def find_spellings(tokenizer: Any, vocabulary: int) -> Spellings:
    """The spellings in a tokenizer's vocabulary; the model's output layer covers its first `vocabulary` tokens.

    These are all tokens that read yes or no, in any case, with any space and punctuation around them. Raises UserError
    if the first token of an answer can't tell the words apart.
    """
    special = set(tokenizer.all_special_ids)
    tokens = range(min(len(tokenizer), vocabulary))
    by_word: dict[str, list[int]] = {word: [] for word in WORDS}
    for token, piece in zip(tokens, tokenizer.convert_ids_to_tokens(list(tokens)), strict=True):
        # A cheap test on the raw pieces: to decode all of 128,000 tokens would take seconds.
        text = unicodedata.normalize("NFKC", str(piece)).casefold()
        if token in special or len(text) > LONGEST or not any(word in text for word in WORDS):
            continue
        if (word := said(_text(tokenizer, token))) in by_word:
            by_word[word].append(token)
    if all(by_word.values()):
        return Spellings(tuple(by_word["yes"]), tuple(by_word["no"]), True)
    first = {word: _first_pieces(tokenizer, word) & set(tokens) for word in WORDS}
    both = first["yes"] & first["no"]
    yes, no = (tuple(sorted(first[word] - both)) for word in WORDS)
    if not yes or not no:
        raise UserError("the model's tokenizer has no token that begins yes and not no, so that its first token cannot "
                        "tell them apart")  # fmt: skip
    return Spellings(yes, no, False)


def _first_pieces(tokenizer: Any, word: str) -> set[int]:
    spelt: Iterable[str] = (lead + form for lead in ("", " ") for form in (word, word.title(), word.upper()))
    return {ids[0] for text in spelt if (ids := tokenizer(text, add_special_tokens=False)["input_ids"])}


def _text(tokenizer: Any, token: int) -> str:
    return str(tokenizer.decode([token]))
