"""Questions that stand in a training text word for word, once both are brought to small letters without marks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from mllm_eval.data.samples import Sample

# Words that a question is found by before it is compared whole.
HEAD = 3
_TAGS = re.compile(r"<[^<>\s][^<>]{0,40}>")
_MARKS = re.compile(r"[\W_]+")


def normalised(text: str) -> str:
    """Small letters, compatible forms (NFKC) as one, marks and spaces as one space, without `<image 1>` and such."""
    plain = unicodedata.normalize("NFKC", _TAGS.sub(" ", text)).casefold()
    return _MARKS.sub(" ", plain).strip()


def question_of(sample: Sample, column: str) -> str:
    """What a sample asks, without options and instructions: its row's column, else the first line of its prompt."""
    own = sample.record.get(column)
    return own if isinstance(own, str) and own.strip() else sample.prompt.strip().partition("\n")[0]


class Questions:
    """Questions to look for, each once, by number."""

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
        """The numbers of those that stand, as whole words in a row, in any of the texts."""
        numbers: set[int] = set()
        for text in texts:
            words = normalised(text).split()
            for at in range(len(words)):
                for size in self._sizes:
                    for number, asked in self._by_head.get(tuple(words[at : at + size]), ()):
                        if number not in numbers and words[at : at + len(asked)] == asked:
                            numbers.add(number)
        return numbers
