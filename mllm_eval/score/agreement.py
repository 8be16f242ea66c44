"""Checks whether a line of an answer file belongs to a sample, by normal forms of question and gold answer.

Evaluation harnesses write the same question with different suffixes, options or marks, and the same gold answer as a
letter, a number or a text. Equal meanings must agree here, and different ones must not.
"""

from __future__ import annotations

import ast
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mllm_eval.data.samples import Sample

_IMAGE_MARK = re.compile(r"<image(?:[ _]?\d+)?>")
_NO_WORD = re.compile(r"[\W_]+")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_OPTION = re.compile(r"^[ \t]*\(?([A-Z])[.):][ \t]*(.*)$", re.MULTILINE)
_SENTENCE_END = re.compile(r"[?\n]")
# A first sentence with fewer letters is too unspecific, so the whole text is used instead.
_SHORTEST = 12


@dataclass(frozen=True, slots=True)
class Said:
    """What a line says about its question. None or empty means that it does not say.

    own_id: value of the benchmark's own id column. question: the question as in the data set.
    prompt: the text given to the model, with everything that the harness adds. golds: the gold answer, possibly in
    several forms.
    """

    own_id: str | None = None
    question: str | None = None
    prompt: str | None = None
    golds: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """What a sample says about itself: its id column, its question as written, normal forms, and its gold answers."""

    own_id: str | None
    question: str
    forms: tuple[str, ...]
    openings: tuple[str, ...]
    target: str
    golds: frozenset[str]


def normal(text: str) -> str:
    """Letters and digits of a text, casefolded, without image marks; if there are none, its non-blank characters."""
    text = unicodedata.normalize("NFKC", _IMAGE_MARK.sub(" ", text)).casefold()
    return _NO_WORD.sub("", text) or "".join(text.split())


def known(sample: Sample, settings: Mapping[str, Any]) -> Known:
    """What a sample says about itself. settings: the benchmark's settings, which name its columns."""
    record = sample.record
    asked = [record.get(column) for column in (settings.get("question", "question"), "question")]
    texts = list(dict.fromkeys(text for text in (*asked, sample.prompt) if isinstance(text, str) and text.strip()))
    id_column = settings.get("id")
    own = None if id_column is None else record.get(id_column)
    options = dict(_OPTION.findall(sample.prompt))
    golds = [sample.target, record.get(settings.get("answer", "answer"))]
    return Known(
        None if own is None else number_or_text(own),
        texts[0] if texts else "",
        tuple(normal(text) for text in texts),
        tuple(_opening(text) for text in texts),
        sample.target,
        frozenset(form for gold in golds for one in _each(gold) for form in _with_options(one, options)),
    )


def disagreement(said: Said, sample: Known) -> tuple[str, str, str] | None:
    """The first contradiction between a line and a sample: (what differs, the line's text, the sample's text).

    Returns None if they agree. A value that one of them does not state never contradicts.
    """
    if said.own_id is not None and sample.own_id is not None and said.own_id != sample.own_id:
        return "id", said.own_id, sample.own_id
    text = _question(said.question)
    # The question may lack its options, or contain additions of the harness.
    if text and sample.forms and not any(text in form or form in text for form in sample.forms):
        return "question", said.question or "", sample.question
    text = _question(said.prompt)
    # lmms-eval removes the last sentence of MME's questions before it adds its own.
    if text and sample.forms and not any(form in text for form in (*sample.forms, *sample.openings)):
        return "prompt", said.prompt or "", sample.question
    for gold in said.golds:
        forms = {_form(one) for one in _each(gold)}
        if forms and sample.golds and forms.isdisjoint(sample.golds):
            return "gold answer", str(gold), sample.target
    return None


def number_or_text(value: Any) -> str:
    """An id as text. Whole numbers lose leading zeros, and the `.0` that a spreadsheet may add."""
    text = str(value).strip()
    whole = re.fullmatch(r"(\d+)(?:\.0+)?", text, re.ASCII)
    return str(int(whole[1])) if whole and len(whole[1]) < 19 else text


def _question(text: str | None) -> str:
    """Normal form of a question; "" if it has only one or two letters, which is a placeholder."""
    form = normal(text or "")
    return form if len(form) > 2 else ""


def _opening(text: str) -> str:
    first = normal(_SENTENCE_END.split(text.strip(), maxsplit=1)[0])
    return first if len(first) >= _SHORTEST else normal(text)


def _each(gold: Any) -> Iterator[str]:
    """Yield the texts of a gold answer, which may be a list or the text of a list; nothing if it is hidden."""
    if isinstance(gold, list | tuple):
        for one in gold:
            yield from _each(one)
    elif gold is not None and (text := str(gold)).strip() and text.strip().lower() != "nan":
        yield text
        if text.lstrip().startswith("[") and text.rstrip().endswith("]"):
            try:
                parsed = ast.literal_eval(text.strip())
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                return
            if isinstance(parsed, list):
                for one in parsed:
                    yield from _each(one)


def _form(text: str) -> str:
    """Normal form of a gold answer. A number's form is its value, so that 14.0 equals 14 and 1,000 equals 1000."""
    plain = text.strip().replace(",", "")
    if _NUMBER.fullmatch(plain) and math.isfinite(value := float(plain)):
        return f"{value:.12g}"
    return normal(text)


def _with_options(gold: str, options: Mapping[str, str]) -> Iterator[str]:
    """Yield the form of a gold answer, and of the letter, index and text of the option that it may name.

    The index, from 0, is left out if it is also the text of an option.
    """
    form = _form(gold)
    yield form
    texts = {letter: _form(text) for letter, text in options.items()}
    for place, (letter, text) in enumerate(texts.items()):
        same = {letter.casefold(), str(place), text}
        if form in same:
            yield from (same if str(place) not in texts.values() else (letter.casefold(), text))
