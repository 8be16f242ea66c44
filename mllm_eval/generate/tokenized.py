"""Tokenise each request once, count its tokens for the plan, and lay it out as a row of its batch."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from weakref import WeakKeyDictionary

from mllm_eval.catalog import Kept, TokenGrid
from mllm_eval.data.samples import ImageRef
from mllm_eval.generate.batching import Lengths, Piece, Planned, PromptRow, TokenBatch
from mllm_eval.generate.request import BROKEN, Request
from mllm_eval.prompts import Chunk, PromptTokens

Pieces = tuple[Piece, ...]
"""Texts and images of a prompt in their order; two texts are never adjacent."""

# Prompts per call of the tokenizer: one call for many is faster than a call for each.
AT_ONCE = 256
NO_PREFIX = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as prefix and suffix; the suffix is `inner` followed by the text `end`.

    `end` is an array, as it takes a fifth of a tuple's memory.
    """

    prefix: Pieces
    prefix_tokens: int
    inner: Pieces
    end: array[int]
    suffix_tokens: int

    @property
    def suffix(self) -> Pieces:
        """The pieces after the prefix."""
        return (*self.inner, tuple(self.end)) if self.end else self.inner

    @property
    def pieces(self) -> Pieces:
        """The whole prompt; a text that was cut into prefix and suffix is joined again."""
        if self.prefix and not self.inner and not isinstance(self.prefix[-1], str):
            return ((*self.prefix[-1], *self.end),)
        return (*self.prefix, *self.suffix)


class TokenizedPrompts:
    """The tokenised prompts of requests, kept in memory as long as the requests.

    The prefix of a prompt with one image ends with the image. The prefix of prompts without images is the text that all
    prompts of the same call begin with. Prompts with several images have no prefix.
    """

    def __init__(self, words: PromptTokens, image_tokens: int, grid: TokenGrid | None = None) -> None:
        """`image_tokens`: positions of an image that is shown whole; `grid`: hides the padding of images, if given."""
        self.words, self.image_tokens, self.grid = words, image_tokens, grid
        self.kept: dict[str, Kept] = {}
        """SHA-256 -> the shown part of each image whose padding is hidden."""
        self._whole: set[str] = set()
        # Texts before an image recur in all prompts, so one copy of each is kept.
        self._before: dict[Chunk, tuple[int, ...]] = {}
        self._prompts: WeakKeyDictionary[Request, Prompt] = WeakKeyDictionary()

    def prompts(self, requests: Sequence[Request]) -> list[Prompt]:
        """Return the prompts of requests, tokenising those that are new."""
        new = [request for request in requests if request not in self._prompts]
        texts: list[tuple[Request, tuple[int, ...]]] = []
        for start in range(0, len(new), AT_ONCE):
            part = new[start : start + AT_ONCE]
            for request, pieces in zip(part, self._pieces(part), strict=True):
                if (text := _text(pieces)) is not None:
                    texts.append((request, text))
                else:
                    self._prompts[request] = self._split(pieces)
        # Each prompt keeps at least one token as its suffix.
        shared = _shared([text for _, text in texts])
        for request, text in texts:
            prefix, own = text[:shared], array("i", text[shared:])
            self._prompts[request] = Prompt((prefix,) if shared else (), shared, (), own, len(own))
        return [self._prompts[request] for request in requests]

    def pieces(self, request: Request) -> Pieces:
        """Return the whole prompt of a request."""
        (prompt,) = self.prompts([request])
        return prompt.pieces

    def lengths(self, requests: Sequence[Request]) -> list[Lengths]:
        """Return the lengths of requests, numbered by their index."""
        numbers: dict[Pieces, int] = {}
        rows = []
        for place, (request, one) in enumerate(zip(requests, self.prompts(requests), strict=True)):
            prefix = numbers.setdefault(one.prefix, len(numbers) + 1) if one.prefix else NO_PREFIX
            rows.append(Lengths(place, prefix, one.prefix_tokens, one.suffix_tokens, request.max_new_tokens))
        return rows

    def batch(self, requests: Sequence[Request], planned: Planned, lengths: Sequence[Lengths]) -> TokenBatch:
        """Return a planned batch in tokens; `lengths` must be those of `requests`."""
        numbers = planned.requests
        prompts = dict(zip(numbers, self.prompts([requests[number] for number in numbers]), strict=True))
        prefixes = {lengths[number].prefix: prompt.prefix for number, prompt in prompts.items()}
        places = {prefix: place for place, prefix in enumerate(planned.prefixes)}

        def row(number: int) -> PromptRow:
            own = lengths[number]
            return PromptRow(number, places[own.prefix], prompts[number].suffix, own.suffix_tokens, own.longest)

        blocks = tuple(tuple(row(number) for number in block) for block in planned.blocks)
        shown = {image.sha256 for number in numbers for image in requests[number].images}
        kept = {name: self.kept[name] for name in shown & self.kept.keys()}
        return TokenBatch(
            tuple(prefixes[prefix] for prefix in planned.prefixes), lengths[numbers[0]].prefix_tokens, blocks, kept
        )

    def _pieces(self, requests: Sequence[Request]) -> list[Pieces]:
        texts = [self.words.chunks(request.prompt) for request in requests]
        new = list(dict.fromkeys(text for own in texts for text in own if text not in self._before))
        words = {text: tuple(ids) for text, (ids, _) in zip(new, self.words.encode(new), strict=True)}
        rows = []
        for request, own in zip(requests, texts, strict=True):
            pieces: list[Piece] = []
            for text, image in zip(own, (*request.images, None), strict=True):
                ids = self._before.get(text)
                if ids is None:
                    ids = words[text]
                    if image is not None:
                        self._before[text] = ids
                pieces += [ids] if ids else []
                if image is not None:
                    pieces.append(image.sha256)
                    self._measure(image)
            rows.append(tuple(pieces))
        return rows

    def _split(self, pieces: Pieces) -> Prompt:
        if sum(isinstance(piece, str) for piece in pieces) == 1 and not isinstance(pieces[-1], str):
            prefix, suffix = pieces[:-1], pieces[-1:]
        else:
            prefix, suffix = (), pieces
        last = suffix[-1] if suffix and not isinstance(suffix[-1], str) else ()
        inner = suffix[:-1] if last else suffix
        return Prompt(prefix, self._length(prefix), inner, array("i", last), self._length(suffix))

    def _length(self, pieces: Pieces) -> int:
        return sum(self._positions(piece) if isinstance(piece, str) else len(piece) for piece in pieces)

    def _positions(self, image: str) -> int:
        kept = self.kept.get(image)
        return self.image_tokens if kept is None or self.grid is None else self.grid.count(kept)

    def _measure(self, image: ImageRef) -> None:
        if self.grid is None or image.sha256 in self._whole or image.sha256 in self.kept:
            return
        try:
            kept = self.grid.kept(image.size())
        except BROKEN:
            # Samples with an unreadable image fail anyway, so its size does not matter.
            kept = self.grid.kept(None)
        if self.grid.count(kept) == self.grid.positions:
            self._whole.add(image.sha256)
        else:
            self.kept[image.sha256] = kept


def _text(pieces: Pieces) -> tuple[int, ...] | None:
    """Return the tokens of a prompt without images; None for a prompt with images."""
    (first, *others) = pieces
    return None if others or isinstance(first, str) else first


def _shared(texts: Sequence[tuple[int, ...]]) -> int:
    """Return the length of the texts' common beginning, less than any text's length; 0 for a single text."""
    if len(texts) < 2:
        return 0
    alike = texts[0]
    for text in texts[1:]:
        alike = tuple(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], zip(alike, text, strict=False)))
    return max(0, min(len(alike), min(map(len, texts)) - 1))
