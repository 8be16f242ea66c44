"""Which questions are answered together. No torch and no tokens: a plan is arithmetic on their numbers.

A prompt is split into a prefix that others share word for word (the text before the image and the image; for
prompts without an image, the words that all of them begin with) and its own suffix. The prefix is computed once.
The plan depends on the whole list of requests and on the limits, never on what has been answered already: a
run that was interrupted meets the same batches again, hence the same roundings and the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from mllm_eval.catalog.grid import Kept

Piece = tuple[int, ...] | str
"""Token ids, or the sha256 of an image that stands there."""

# Tokens of an answer where work is compared: most end after a few, whatever their limit.
ANSWER = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is computed at one time.

    `tokens` bounds the keys and values held, in tokens (prompts and the longest answers allowed, shared prefixes
    once): memory is this times the model's bytes per token, 2 x layers x key heads x head width x itemsize. A
    request that exceeds it alone is answered alone. `rows` bounds the questions decoded together,
    `pass_tokens` the tokens that go through the model at a time, padding included. `pass_cost` is what a pass
    costs beside its tokens, in tokens: questions are parted by length only where that saves more padding.
    """

    tokens: int = 32768
    rows: int = 64
    pass_tokens: int = 4096
    pass_cost: int = 256


@dataclass(frozen=True, slots=True)
class Lengths:
    """A prompt as a plan sees it: `prefix` is the number of the prefix it shares, 0 for none.

    `suffix_tokens` follow the prefix's `prefix_tokens`; the answer may have `longest` tokens.
    """

    number: int
    prefix: int
    prefix_tokens: int
    suffix_tokens: int
    longest: int


@dataclass(frozen=True, slots=True)
class Planned:
    """A batch as numbers: prefixes of equal length, and the requests of each block, ascending in length."""

    prefixes: tuple[int, ...]
    blocks: tuple[tuple[int, ...], ...]
    work: int
    """Tokens that go through the model, about."""

    @property
    def requests(self) -> list[int]:
        """The numbers of its requests, ascending."""
        return sorted(number for block in self.blocks for number in block)


@dataclass(frozen=True, slots=True)
class PromptRow:
    """The request number `request`, whose pieces after the batch's prefix number `prefix` are `suffix`.

    `longest` is how many tokens its answer may have.
    """

    request: int
    prefix: int
    suffix: tuple[Piece, ...]
    suffix_tokens: int
    longest: int


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Prefixes of equal length, and blocks of rows that are decoded one block after the other.

    `kept`: what is shown of the images of which not all is, by sha256.
    """

    prefixes: tuple[tuple[Piece, ...], ...]
    prefix_tokens: int
    blocks: tuple[tuple[PromptRow, ...], ...]
    kept: Mapping[str, Kept] = field(default_factory=dict)

    def images(self, row: PromptRow) -> list[str]:
        """The sha256 of the images that a row shows."""
        return [piece for piece in (*self.prefixes[row.prefix], *row.suffix) if isinstance(piece, str)]


def plan(requests: Iterable[Lengths], limits: Limits) -> list[Planned]:
    """Batches that hold every request exactly once."""
    ordered = sorted(requests, key=lambda request: (request.prefix, request.suffix_tokens, request.number))
    groups = [
        part for _, group in groupby(ordered, lambda request: request.prefix) for part in _parts([*group], limits)
    ]
    groups.sort(key=lambda group: (group[0].prefix_tokens, group[-1].suffix_tokens, group[0].number))
    return [_planned(packed, limits) for packed in _packed(groups, limits)]


def _held(prefixes: int, prefix_tokens: int, rows: int, longest: int) -> int:
    """Tokens whose keys and values are held; `longest` counts a row's suffix and answer."""
    return prefixes * prefix_tokens + rows * longest


def _parts(group: Sequence[Lengths], limits: Limits) -> Iterator[Sequence[Lengths]]:
    """Requests of one prefix, ascending in length, in parts that stay within the limits."""
    start, answer = 0, 0
    for end, request in enumerate(group):
        answer = max(answer, request.longest)
        held = _held(1, request.prefix_tokens, end - start + 1, request.suffix_tokens + answer)
        if end > start and (end - start >= limits.rows or held > limits.tokens):
            yield group[start:end]
            start, answer = end, request.longest
    yield group[start:]


def _packed(groups: Sequence[Sequence[Lengths]], limits: Limits) -> Iterator[list[Sequence[Lengths]]]:
    packed: list[Sequence[Lengths]] = []
    rows, suffix, answer = 0, 0, 0
    for group in groups:
        own = len(group), group[-1].suffix_tokens, max(request.longest for request in group)
        rows, suffix, answer = rows + own[0], max(suffix, own[1]), max(answer, own[2])
        alike = not packed or packed[0][0].prefix_tokens == group[0].prefix_tokens
        held = _held(len(packed) + 1, group[0].prefix_tokens, rows, suffix + answer)
        if packed and (not alike or rows > limits.rows or held > limits.tokens):
            yield packed
            packed, (rows, suffix, answer) = [], own
        packed.append(group)
    if packed:
        yield packed


def _planned(groups: Sequence[Sequence[Lengths]], limits: Limits) -> Planned:
    # Prefixes that equally many rows share are attended to in one go if they stand together.
    groups = sorted(groups, key=len)
    rows = sorted((one for group in groups for one in group), key=lambda one: (one.suffix_tokens, one.number))
    cuts = _cuts([one.suffix_tokens for one in rows], limits)
    blocks = tuple(tuple(one.number for one in rows[start:end]) for start, end in pairwise(cuts))
    suffixes = sum(one.suffix_tokens + min(one.longest, ANSWER) for one in rows)
    return Planned(
        tuple(group[0].prefix for group in groups), blocks, len(groups) * groups[0][0].prefix_tokens + suffixes
    )


def _cuts(lengths: Sequence[int], limits: Limits) -> list[int]:
    """Where to cut ascending lengths so that passes and padding cost least in sum; from 0 to the end."""
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(lengths) + 1):
        longest = lengths[end - 1]
        first = max(0, min(end - limits.pass_tokens // longest, end - 1))
        choices = range(first, end)
        best.append(min((best[start][0] + (end - start) * longest + limits.pass_cost, start) for start in choices))
    cuts = [len(lengths)]
    while cuts[-1]:
        cuts.append(best[cuts[-1]][1])
    return cuts[::-1]
