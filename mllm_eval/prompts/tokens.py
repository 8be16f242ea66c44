"""Tokenise prompts and conversations, in the same way in training and evaluation.

A rendered text is split at its images, and each piece is tokenised at once, as `tokenizer_image_token` of LLaVA and
Cambrian-1 does. Only control tokens that the template wrote become control tokens. To that end, the tokenizer is copied
with its control tokens renamed, and only the template's text uses the new names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from mllm_eval.prompts.strings import IMAGE, PromptPart, template_named

# A noncharacter of Unicode, used in the new names. Names that occur in a text are avoided for that text.
NAMED = "\ufdd0"
Tokens = tuple[list[int], list[bool]]
"""Token ids, and whether each is a training target."""

_copies: WeakKeyDictionary[Any, dict[int, tuple[Any, dict[str, int]]]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Chunk:
    """The text before, between or after images: its parts as (text, own, target), and whether it is the first chunk."""

    parts: tuple[tuple[str, bool, bool], ...]
    first: bool


class PromptTokens:
    """Tokenises the parts of a prompt.

    `template` decides whether the tokenizer's begin token is added. None means the template of another tool, which
    writes its own begin token.
    """

    def __init__(self, tokenizer: Any, template: str | None) -> None:
        self.tokenizer = tokenizer
        wanted = template is not None and bool(template_named(template).begin_of_tokenizer)
        begin = getattr(tokenizer, "bos_token_id", None) if wanted else None
        self.begin: list[int] = [] if begin is None else [begin]

    def chunks(self, parts: Sequence[PromptPart]) -> list[Chunk]:
        """Return the chunks before, between and after the images, one more than there are images."""
        pieces: list[list[tuple[str, bool, bool]]] = [[]]
        for part in parts:
            if part.image:
                pieces.append([])
            else:
                pieces[-1].append((part.text, part.own, part.target))
        return [Chunk(tuple(own), number == 0) for number, own in enumerate(pieces)]

    def encode(self, chunks: Sequence[Chunk]) -> list[Tokens]:
        """Return the tokens of chunks, with the begin token before a first chunk if the template requires it."""
        if getattr(self.tokenizer, "backend_tokenizer", None) is None:
            tokens = [self._plain(chunk) for chunk in chunks]
        else:
            tokens = self._encoded(chunks)
        for chunk, (ids, targets) in zip(chunks, tokens, strict=True):
            if chunk.first and self.begin:
                ids[:0] = self.begin
                targets[:0] = [False] * len(self.begin)
        return tokens

    def _encoded(self, chunks: Sequence[Chunk]) -> list[Tokens]:
        names = [_free_name(chunk) for chunk in chunks]
        tokens: list[Tokens] = [([], []) for _ in chunks]
        for name in sorted(set(names)):
            copy, controls = _copy(self.tokenizer, name)
            own = [at for at, other in enumerate(names) if other == name]
            texts = [_spelt(chunks[at], controls, name) for at in own]
            encoded = copy.encode_batch(["".join(text for text, _ in one) for one in texts], add_special_tokens=False)
            for at, spelt, one in zip(own, texts, encoded, strict=True):
                tokens[at] = _learnt(copy, spelt, one)
        return tokens

    def _plain(self, chunk: Chunk) -> Tokens:
        """Tokenise a chunk part by part, for slow tokenizers; the text `<image>` is split so that it is no token."""
        ids: list[int] = []
        targets: list[bool] = []
        for text, _, target in chunk.parts:
            for piece in re.split(f"(?<={IMAGE[:-1]})(?={IMAGE[-1]})", text):
                (more,) = self.tokenizer([piece], add_special_tokens=False)["input_ids"]
                ids += more
                targets += [target] * len(more)
        return ids, targets


def _free_name(chunk: Chunk) -> int:
    text, number = "".join(text for text, _, _ in chunk.parts), 0
    while f"{NAMED}{number}." in text:
        number += 1
    return number


def _spelt(chunk: Chunk, controls: dict[str, int], name: int) -> list[tuple[str, bool]]:
    """Return runs of (text, target), with the control tokens in the template's own parts renamed."""
    marks = re.compile("|".join(map(re.escape, sorted(controls, key=len, reverse=True))) or "(?!)")
    runs: list[tuple[str, bool]] = []
    for text, own, target in chunk.parts:
        spelt = marks.sub(lambda mark: _named(controls[mark.group()], name), text) if own else text
        if runs and runs[-1][1] == target:
            runs[-1] = (runs[-1][0] + spelt, target)
        else:
            runs.append((spelt, target))
    return runs


def _learnt(copy: Any, runs: Sequence[tuple[str, bool]], encoded: Any) -> Tokens:
    ends, length = [], 0
    for text, _ in runs:
        length += len(text)
        ends.append(length)
    offsets = encoded.offsets
    if any(start < end < stop for end in ends[:-1] for start, stop in offsets):
        # A token spans the end of the prompt. As nothing follows the prompt in evaluation, runs are tokenised alone.
        ids: list[int] = []
        targets: list[bool] = []
        for text, target in runs:
            more = copy.encode(text, add_special_tokens=False).ids
            ids += more
            targets += [target] * len(more)
        return ids, targets
    at, targets = 0, []
    for start, stop in offsets:
        while at < len(runs) - 1 and start >= ends[at] and stop > ends[at]:
            at += 1
        targets.append(runs[at][1])
    return list(encoded.ids), targets


def _named(token: int, name: int) -> str:
    return f"{NAMED}{name}.{token}{NAMED}"


def is_control(content: str, special: bool) -> bool:
    """Whether an added token is a control token: it is special, or written in brackets."""
    return special or re.fullmatch(r"<[^\s<>]+>|\[[^\s\[\]]+\]", content) is not None


def _copy(tokenizer: Any, name: int) -> tuple[Any, dict[str, int]]:
    """Return a cached copy of the tokenizer with renamed control tokens, and original name -> id of these."""
    known = _copies.setdefault(tokenizer, {})
    if name not in known:
        known[name] = _made(tokenizer, name)
    return known[name]


def _made(tokenizer: Any, name: int) -> tuple[Any, dict[str, int]]:
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content.update(truncation=None, padding=None, post_processor=None)
    added = [one for one in content["added_tokens"] if is_control(one["content"], one["special"])]
    controls = {one["content"]: int(one["id"]) for one in added}
    other = {mark: _named(token, name) for mark, token in controls.items()}
    for one in added:
        one["content"] = other[one["content"]]
    model = content["model"]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {other.get(piece, piece): token for piece, token in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[other.get(piece, piece), score] for piece, score in vocabulary]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = other.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
        model["merges"] = [[a, b] for a, b in pairs if not {a, b, a + b} & other.keys()]
    made = Tokenizer.from_str(json.dumps(content))
    moved = [mark for mark, token in controls.items() if made.token_to_id(other[mark]) != token]
    if moved:
        raise ValueError(f"the tokenizer's token {moved[0]!r} has another id in its copy")
    return made, controls
