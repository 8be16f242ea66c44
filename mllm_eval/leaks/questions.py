"""Finds questions that occur in a training text word for word, after both are normalised."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from mllm_eval.data.samples import Sample

# Number of first words by which a question is looked up, before it is compared completely.
HEAD = 3
_TAGS = re.compile(r"<[^<>\s][^<>]{0,40}>")
_MARKS = re.compile(r"[\W_]+")


def normalised(text: str) -> str:
    """The text in NFKC form and lower case, without tags (`<image 1>`), with marks and spaces as single spaces."""
    plain = unicodedata.normalize("NFKC", _TAGS.sub(" ", text)).casefold()
    return _MARKS.sub(" ", plain).strip()


def question_of(sample: Sample, column: str) -> str:
    """The question of a sample, without options and instructions: its row's `column`, else its prompt's first line."""
    own = sample.record.get(column)
    return own if isinstance(own, str) and own.strip() else sample.prompt.strip().partition("\n")[0]


class Questions:
    """The distinct normalised questions to look for, numbered in sorted order."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts: list[str] = sorted({wording for text in texts if (wording := normalised(text))})
        self.numbers = {text: number for number, text in enumerate(self.texts)}
        self._by_head: dict[tuple[str, ...], list[tuple[int, list[str]]]] = {}
        for number, text in enumerate(self.texts):
            words = text.split()
            self._by_head.setdefault(tuple(words[:HEAD]), []).append((number, words))
        self._sizes = sorted({len(head) for head in self._by_head})

    def __len__(self) -> int:
        return len(self.texts)

    def found_in(self, texts: Sequence[str]) -> set[int]:
        """The numbers of the questions that occur in any of the texts as a sequence of whole words."""
        numbers: set[int] = set()
        for text in texts:
            words = normalised(text).split()
            for at in range(len(words)):
                for size in self._sizes:
                    for number, asked in self._by_head.get(tuple(words[at : at + size]), ()):
                        if number not in numbers and words[at : at + len(asked)] == asked:
                            numbers.add(number)
        return numbers
