"""Which samples are answered together. No torch: a plan is arithmetic on token counts.

A request is split into a head that other requests share word for word (the text before the image and the
image; for prompts without an image, the words that all of them begin with) and its own tail. The head is
computed once. The plan depends on the whole list of requests and on the limits, never on what has been
answered already: a run that was interrupted meets the same batches again, hence the same roundings and the
same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

Piece = tuple[int, ...] | str
"""Token ids, or the sha256 of an image that stands there."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is computed at one time.

    `tokens` bounds the keys and values held, in tokens (prompts and the longest answers allowed, shared heads
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
class Request:
    """A prompt as pieces of text and images, in order; two texts never stand next to each other."""

    pieces: tuple[Piece, ...]

    @property
    def images(self) -> tuple[str, ...]:
        return tuple(piece for piece in self.pieces if isinstance(piece, str))


@dataclass(frozen=True, slots=True)
class Row:
    """The request number `request`, whose pieces after the batch's head number `head` are `tail`.

    `longest` is how many tokens its answer may have.
    """

    request: int
    head: int
    tail: tuple[Piece, ...]
    tail_tokens: int
    longest: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Heads of equal length, and blocks of rows that are decoded one block after the other."""

    heads: tuple[tuple[Piece, ...], ...]
    head_tokens: int
    blocks: tuple[tuple[Row, ...], ...]

    @property
    def requests(self) -> list[int]:
        """The numbers of the requests in the batch, ascending."""
        return sorted(row.request for block in self.blocks for row in block)

    def images(self, row: Row) -> list[str]:
        """The sha256 of the images that a row shows."""
        return [piece for piece in (*self.heads[row.head], *row.tail) if isinstance(piece, str)]


@dataclass(frozen=True, slots=True)
class _Group:
    head: tuple[Piece, ...]
    head_tokens: int
    rows: list[Row]

    def cost(self, max_new_tokens: int) -> int:
        return _cost(1, self.head_tokens, len(self.rows), self.rows[-1].tail_tokens, max_new_tokens)


def plan(requests: Sequence[Request], image_tokens: int, max_new_tokens: int, limits: Limits) -> list[Batch]:
    """Batches that hold every request exactly once.

    `image_tokens` is the length of an image in the prompt.
    """
    groups = [
        part
        for group in _groups(requests, image_tokens, max_new_tokens)
        for part in _parts(group, max_new_tokens, limits)
    ]
    groups.sort(key=lambda group: (group.head_tokens, group.rows[-1].tail_tokens, group.rows[0].request))
    return [_batch(packed, limits) for packed in _packed(groups, max_new_tokens, limits)]


def _groups(requests: Sequence[Request], image_tokens: int, max_new_tokens: int) -> Iterator[_Group]:
    def length(pieces: Sequence[Piece]) -> int:
        return sum(image_tokens if isinstance(piece, str) else len(piece) for piece in pieces)

    shared = _shared_words([request for request in requests if not request.images])
    heads: dict[tuple[Piece, ...], list[Row]] = {}
    for number, request in enumerate(requests):
        head, tail = _split(request, shared)
        heads.setdefault(head, []).append(Row(number, 0, tail, length(tail), max_new_tokens))
    for head, rows in heads.items():
        yield _Group(head, length(head), sorted(rows, key=lambda row: (row.tail_tokens, row.request)))


def _shared_words(requests: Sequence[Request]) -> int:
    """How many tokens all requests begin with; each keeps at least one of its own."""
    texts = [piece for request in requests for piece in request.pieces if not isinstance(piece, str)]
    if len(texts) < 2:
        return 0
    # What the first and the last in alphabetical order share, all between them share too.
    pairs = zip(min(texts), max(texts), strict=False)
    alike = next((at for at, (one, other) in enumerate(pairs) if one != other), min(map(len, texts)))
    return min(alike, *(len(text) - 1 for text in texts))


def _split(request: Request, shared: int) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    pieces = request.pieces
    if not isinstance(pieces[0], str) and len(pieces) == 1:
        return (pieces[0][:shared],) if shared else (), (pieces[0][shared:],)
    if len(request.images) == 1 and not isinstance(pieces[-1], str):
        return pieces[:-1], pieces[-1:]
    return (), pieces


def _cost(heads: int, head_tokens: int, rows: int, tail_tokens: int, max_new_tokens: int) -> int:
    return heads * head_tokens + rows * (tail_tokens + max_new_tokens)


def _parts(group: _Group, max_new_tokens: int, limits: Limits) -> Iterator[_Group]:
    """The group in parts that stay within the limits; rows of similar length stay together."""
    start = 0
    for end in range(1, len(group.rows) + 1):
        part = _Group(group.head, group.head_tokens, group.rows[start : end + 1])
        full = end - start >= limits.rows or part.cost(max_new_tokens) > limits.tokens
        if full or end == len(group.rows):
            yield _Group(group.head, group.head_tokens, group.rows[start:end])
            start = end


def _packed(groups: Sequence[_Group], max_new_tokens: int, limits: Limits) -> Iterator[list[_Group]]:
    packed: list[_Group] = []
    for group in groups:
        trial = [*packed, group]
        rows = sum(len(each.rows) for each in trial)
        longest = max(each.rows[-1].tail_tokens for each in trial)
        tokens = _cost(len(trial), group.head_tokens, rows, longest, max_new_tokens)
        alike = not packed or packed[0].head_tokens == group.head_tokens
        if packed and (not alike or rows > limits.rows or tokens > limits.tokens):
            yield packed
            packed = []
        packed.append(group)
    if packed:
        yield packed


def _batch(groups: Sequence[_Group], limits: Limits) -> Batch:
    # Heads that equally many rows share are attended to in one go if they stand together.
    groups = sorted(groups, key=lambda group: len(group.rows))
    rows = [
        Row(row.request, number, row.tail, row.tail_tokens, row.longest)
        for number, group in enumerate(groups)
        for row in group.rows
    ]
    rows.sort(key=lambda row: (row.tail_tokens, row.request))
    cuts = _cuts([row.tail_tokens for row in rows], limits)
    blocks = tuple(tuple(rows[start:end]) for start, end in pairwise(cuts))
    return Batch(tuple(group.head for group in groups), groups[0].head_tokens, blocks)


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
