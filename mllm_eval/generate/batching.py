"""Plan which requests are answered together, from token counts alone. Needs no torch.

A prompt is split into a prefix that other prompts share and a suffix of its own. With one image, the prefix is the
text before the image and the image; without images, it is the text that all prompts begin with. Each prefix is
computed once. The plan depends on the whole list of requests and on the limits, never on existing answers. A resumed
run therefore computes the same batches, with the same rounding and the same output bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

from mllm_eval.catalog.grid import Kept

Piece = tuple[int, ...] | str
"""Token ids, or the SHA-256 of an image."""

# Tokens assumed per answer when the work of batches is estimated: most answers are short, whatever their limit.
ANSWER = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is computed at one time.

    tokens: most tokens in the key-value cache: prompts, shared prefixes once, and answers of the longest allowed
        length. The cache takes tokens x 2 x layers x key heads x head width x itemsize bytes. A request that exceeds
        the limit alone is answered alone.
    rows: most requests that are decoded together.
    pass_tokens: most tokens in one forward pass of the prefill, padding included.
    pass_cost: fixed cost of a forward pass, in tokens. Requests are split by length only where that saves more
        padding than this.
    """

    tokens: int = 32768
    rows: int = 64
    pass_tokens: int = 4096
    pass_cost: int = 256


@dataclass(frozen=True, slots=True)
class Lengths:
    """The lengths of a prompt, in tokens.

    number: the request's number. prefix: number of the shared prefix, 0 for none. longest: most tokens of the answer.
    """

    number: int
    prefix: int
    prefix_tokens: int
    suffix_tokens: int
    longest: int


@dataclass(frozen=True, slots=True)
class Planned:
    """A batch as numbers: prefixes of equal length, and the requests of each block, sorted by suffix length."""

    prefixes: tuple[int, ...]
    blocks: tuple[tuple[int, ...], ...]
    work: int
    """Approximate number of tokens that go through the model."""

    @property
    def requests(self) -> list[int]:
        """The numbers of its requests, ascending."""
        return sorted(number for block in self.blocks for number in block)


@dataclass(frozen=True, slots=True)
class PromptRow:
    """One request of a batch.

    request: the request's number. prefix: index of its prefix in the batch. suffix: the prompt's pieces after the
    prefix. longest: most tokens of the answer.
    """

    request: int
    prefix: int
    suffix: tuple[Piece, ...]
    suffix_tokens: int
    longest: int


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Prefixes of equal length, and blocks of rows; the blocks are decoded one after the other.

    kept: SHA-256 -> the shown part of each image whose padding is hidden (`TokenGrid`).
    """

    prefixes: tuple[tuple[Piece, ...], ...]
    prefix_tokens: int
    blocks: tuple[tuple[PromptRow, ...], ...]
    kept: Mapping[str, Kept] = field(default_factory=dict)

    def images(self, row: PromptRow) -> list[str]:
        """Return the SHA-256 of the images that a row shows."""
        return [piece for piece in (*self.prefixes[row.prefix], *row.suffix) if isinstance(piece, str)]


def plan(requests: Iterable[Lengths], limits: Limits) -> list[Planned]:
    """Return batches that hold every request exactly once."""
    ordered = sorted(requests, key=lambda request: (request.prefix, request.suffix_tokens, request.number))
    groups = [
        part for _, group in groupby(ordered, lambda request: request.prefix) for part in _parts([*group], limits)
    ]
    groups.sort(key=lambda group: (group[0].prefix_tokens, group[-1].suffix_tokens, group[0].number))
    return [_planned(packed, limits) for packed in _packed(groups, limits)]


def _held(prefixes: int, prefix_tokens: int, rows: int, longest: int) -> int:
    """Return the tokens in the key-value cache; `longest` counts a row's suffix and answer."""
    return prefixes * prefix_tokens + rows * longest


def _parts(group: Sequence[Lengths], limits: Limits) -> Iterator[Sequence[Lengths]]:
    """Split the requests of one prefix, sorted by length, into parts that stay within the limits."""
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
    # Adjacent prefixes with equally many rows are attended to in one call (`attention.spans`).
    groups = sorted(groups, key=len)
    rows = sorted((one for group in groups for one in group), key=lambda one: (one.suffix_tokens, one.number))
    cuts = _cuts([one.suffix_tokens for one in rows], limits)
    blocks = tuple(tuple(one.number for one in rows[start:end]) for start, end in pairwise(cuts))
    suffixes = sum(one.suffix_tokens + min(one.longest, ANSWER) for one in rows)
    return Planned(
        tuple(group[0].prefix for group in groups), blocks, len(groups) * groups[0][0].prefix_tokens + suffixes
    )


def _cuts(lengths: Sequence[int], limits: Limits) -> list[int]:
    """Return where to cut ascending lengths so that forward passes and padding cost least in total.

    The result ascends from 0 to the number of lengths. Solved by dynamic programming over the end of the last part.
    """
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
