"""Samples as questions to a model: counted once for the plan, and in tokens only while their batch is answered."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain, islice, takewhile
from typing import Any

from mllm_eval.catalog import Kept, TokenGrid
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.generate.asking import BROKEN, Asked, key_of
from mllm_eval.generate.batching import Batch, Piece, Planned, Request, Row
from mllm_eval.prompts import Chunk, PromptTokens, prompt_parts

Pieces = tuple[Piece, ...]
"""Text and images of a prompt in their order; two texts never stand next to each other."""

# Prompts that are tokenised in one call, which costs less than a call for each.
AT_ONCE = 256
NO_HEAD, SHARED_WORDS = 0, 1


class Questions:
    """The samples of several Asked, numbered through in their order, as requests.

    A sample that asks, of the same images and under the same limit, what an earlier one of another Asked does is
    no request of its own: `same_as` names the other.
    """

    def __init__(
        self,
        asked: Sequence[Asked],
        template: str,
        tokenizer: Any,
        image_tokens: int,
        grid: TokenGrid | None = None,
    ) -> None:
        """`image_tokens`: positions of an image of which all is shown; `grid` says how much is shown of each."""
        self.asked, self.grid = asked, grid
        self.kept: dict[str, Kept] = {}
        """What is shown of the images of which not all is, by sha256."""
        self.template, self.image_tokens = template, image_tokens
        self._whole: set[str] = set()
        self.words = PromptTokens(tokenizer, template)
        self.starts = [0]
        for one in asked:
            self.starts.append(self.starts[-1] + len(one.samples))
        self.same_as = self._repeated() if len(asked) > 1 else {}
        # Texts before an image are the same in all prompts: kept once.
        self._before: dict[Chunk, tuple[int, ...]] = {}
        self.shared_words = 0
        self.requests = self._requests()

    def __len__(self) -> int:
        return self.starts[-1]

    def place(self, number: int) -> tuple[int, int]:
        """Which of the Asked a sample belongs to, and its place there."""
        one = bisect_right(self.starts, number) - 1
        return one, number - self.starts[one]

    def sample(self, number: int) -> Sample:
        """The sample of a number."""
        one, at = self.place(number)
        return self.asked[one].samples[at]

    def pieces(self, samples: Sequence[Sample]) -> list[Pieces]:
        """The prompts of samples."""
        parted = [prompt_parts(self.template, one.prompt, len(one.images)) for one in samples]
        texts = [self.words.chunks(parts) for parts in parted]
        new = list(dict.fromkeys(text for own in texts for text in own if text not in self._before))
        encoded = (tuple(ids) for ids, _ in self.words.encode(new))
        words = {**self._before, **dict(zip(new, encoded, strict=True))}
        found = []
        for sample, own in zip(samples, texts, strict=True):
            pieces: list[Piece] = []
            for text, image in zip(own, (*sample.images, None), strict=True):
                pieces += [words[text]] if words[text] else []
                if image is not None:
                    self._before.setdefault(text, words[text])
                    pieces.append(image.sha256)
                    self._measure(image)
            found.append(tuple(pieces))
        return found

    def batch(self, planned: Planned) -> Batch:
        """A planned batch in tokens."""
        numbers = planned.requests
        pieces = self.pieces([self.sample(number) for number in numbers])
        parted = dict(zip(numbers, map(self._parted, pieces), strict=True))
        heads = {self.requests[number].head: head for number, (head, _) in parted.items()}
        places = {head: place for place, head in enumerate(planned.heads)}

        def row(number: int) -> Row:
            request = self.requests[number]
            return Row(number, places[request.head], parted[number][1], request.tail_tokens, request.longest)

        blocks = tuple(tuple(row(number) for number in block) for block in planned.blocks)
        shown = {piece for own in pieces for piece in own if isinstance(piece, str)}
        kept = {name: self.kept[name] for name in shown & self.kept.keys()}
        return Batch(tuple(heads[head] for head in planned.heads), self.requests[numbers[0]].head_tokens, blocks, kept)

    def _measure(self, image: ImageRef) -> None:
        if self.grid is None or image.sha256 in self._whole or image.sha256 in self.kept:
            return
        try:
            kept = self.grid.kept(image.size())
        except BROKEN:
            # Its samples fail, however long their prompts are.
            kept = self.grid.kept(None)
        if self.grid.count(kept) == self.grid.positions:
            self._whole.add(image.sha256)
        else:
            self.kept[image.sha256] = kept

    def _repeated(self) -> dict[int, int]:
        first: dict[bytes, tuple[int, int]] = {}
        found, number = {}, 0
        for one, asked in enumerate(self.asked):
            for number, sample in enumerate(asked.samples, start=self.starts[one]):
                key = _digest(key_of(sample, self.template), asked.max_new_tokens)
                other, same = first.setdefault(key, (one, number))
                if other != one:
                    found[number] = same
        return found

    def _requests(self) -> list[Request]:
        heads: dict[bytes, int] = {}
        numbers, head_tokens, tail_tokens = array("l"), array("l"), array("l")
        begin: tuple[int, ...] | None = None
        for samples in self._chunks():
            for pieces in self.pieces(samples):
                head, tail = self._parted(pieces)
                number = heads.setdefault(_digest(head), SHARED_WORDS + 1 + len(heads)) if head else NO_HEAD
                if (text := _text(pieces)) is not None:
                    begin, number = text if begin is None else _alike(begin, text), SHARED_WORDS
                numbers.append(number)
                head_tokens.append(self._length(head))
                tail_tokens.append(self._length(tail))
        texts = [count for number, count in zip(numbers, tail_tokens, strict=True) if number == SHARED_WORDS]
        if begin and len(texts) > 1:
            # Each keeps at least one token of its own.
            self.shared_words = min(len(begin), min(texts) - 1)
        limits = (one.max_new_tokens for one in self.asked for _ in range(len(one.samples)))
        counts = zip(numbers, head_tokens, tail_tokens, limits, strict=True)
        return [self._request(number, *count) for number, count in enumerate(counts)]

    def _chunks(self) -> Iterator[list[Sample]]:
        samples = chain.from_iterable(one.samples for one in self.asked)
        while chunk := list(islice(samples, AT_ONCE)):
            yield chunk

    def _request(self, number: int, head: int, head_tokens: int, tail_tokens: int, longest: int) -> Request:
        if head == SHARED_WORDS:
            shared = self.shared_words
            return Request(number, SHARED_WORDS if shared else NO_HEAD, shared, tail_tokens - shared, longest)
        return Request(number, head, head_tokens, tail_tokens, longest)

    def _length(self, pieces: Pieces) -> int:
        return sum(self._positions(piece) if isinstance(piece, str) else len(piece) for piece in pieces)

    def _positions(self, image: str) -> int:
        kept = self.kept.get(image)
        return self.image_tokens if kept is None or self.grid is None else self.grid.count(kept)

    def _parted(self, pieces: Pieces) -> tuple[Pieces, Pieces]:
        """Head and tail."""
        if (text := _text(pieces)) is not None:
            shared = self.shared_words
            return ((text[:shared],) if shared else ()), (text[shared:],)
        if sum(isinstance(piece, str) for piece in pieces) == 1 and not isinstance(pieces[-1], str):
            return pieces[:-1], pieces[-1:]
        return (), pieces


def _text(pieces: Pieces) -> tuple[int, ...] | None:
    """The words of a prompt without images."""
    (first, *others) = pieces
    return None if others or isinstance(first, str) else first


def _alike(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """What both begin with."""
    return tuple(token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _digest(*what: object) -> bytes:
    return hashlib.blake2b(repr(what).encode(), digest_size=16).digest()
