"""Which tokens say yes, and which say no: read off a tokenizer, not listed by hand. No torch."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mllm_eval.errors import UserError

# Beyond, a token has other words beside yes or no.
LONGEST = 24
WORDS = ("yes", "no")


@dataclass(frozen=True)
class Spellings:
    """Ids of the tokens that an answer of yes, or of no, may begin with.

    whole: each is the whole word. Otherwise the tokenizer has no token for one of the words, and these are the first
    pieces of their spellings, those left out with which both begin.
    """

    yes: tuple[int, ...]
    no: tuple[int, ...]
    whole: bool

    def texts(self, tokenizer: Any) -> dict[str, list[str]]:
        """The spellings as text, by word."""
        return {word: [_text(tokenizer, token) for token in getattr(self, word)] for word in WORDS}


def said(text: str) -> str:
    """A token's text without the space, punctuation, case and width that make spellings of one word."""
    return unicodedata.normalize("NFKC", text).strip(string.whitespace + string.punctuation).casefold()


def find_spellings(tokenizer: Any, vocabulary: int) -> Spellings:
    """The spellings in a tokenizer of which the model's output layer knows the first `vocabulary` tokens.

    Every token of the vocabulary that reads yes or no, but for case, space and punctuation around it.
    Raises UserError where the words cannot be told apart by their first token.
    """
    special = set(tokenizer.all_special_ids)
    tokens = range(min(len(tokenizer), vocabulary))
    by_word: dict[str, list[int]] = {word: [] for word in WORDS}
    for token, piece in zip(tokens, tokenizer.convert_ids_to_tokens(list(tokens)), strict=True):
        # Pieces have marks for spaces and bytes; decoding each of 128,000 would take seconds.
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
