"""Multiple choice read fairly: the text of one option, or a letter that is meant as one.

In order: the whole answer repeats an option letter for letter; it is a letter; it is an option's text in another
dress; what follows a second thought ("wait", "actually"); the last letter named by "answer is", "option" or
"choice"; a letter that opens the answer with a mark behind it; the only option whose text occurs; the only
capital that stands for a letter. Two candidates mean no answer, and so does a refusal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from mllm_eval.metrics import phrases
from mllm_eval.metrics.numerals import amount
from mllm_eval.metrics.plain import LONGEST, alike, clean, plain, said, spoken

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Of "Fe^2+" and "x^2" people leave out the mark; "10^2" without it is another number.
_RAISED = re.compile(r"(?<=[A-Za-z)])\^")
_DECIMAL = re.compile(r"(?<![\d.])\d+\.\d+(?![\d.])")


def choose(answer: str, options: Sequence[str], letters: str = LETTERS) -> str | None:
    """The upper-case letter of the option that a raw answer names, None where it names none or several.

    `letters` are those that the question offers, in the order of the options; A, B, C, ... by default.
    """
    offered = letters[: len(options)]
    bare = answer.strip()
    if len(bare) == 1 and bare.upper() in offered and not any(option.strip() == bare for option in options):
        return bare.upper()
    at = _repeated(answer, options)
    text = answer if at is not None else spoken(answer)
    if text != answer:
        at = _repeated(text, options)
    if at is not None:
        return offered[at]
    if not bare:
        return None
    # A letter with a line of its own opens the answer as one with a mark behind it does.
    return _read(plain(phrases.FIRST_LINE.sub(r"\1. ", text)), options, offered)


def option_score(
    answer: str, options: Sequence[str], gold: str, letters: str = LETTERS
) -> tuple[float, str | None, str]:
    """Score of a raw answer against an upper-case gold letter; parsed is None where no option is named."""
    letter = choose(answer, options, letters)
    return float(letter == gold), letter, "" if letter else "no single option"


def _repeated(answer: str, options: Sequence[str]) -> int | None:
    """Where the one option stands that the raw answer repeats letter for letter."""
    return _first(_forms(answer), options, (str, str.strip, _spaced))


def _forms(text: str) -> list[str]:
    """The text; without a final point; and the same of what follows "Answer:" or the last "answer is"."""
    texts = [text]
    if (intro := phrases.INTRO.match(text)) is not None:
        texts.append(text[intro.end() :])
    ends = [match.end() for match in phrases.LAST.finditer(text)] if len(text) <= LONGEST else []
    if ends:
        texts.append(text[ends[-1] :])
    return [form for whole in texts for form in (whole, _pointless(whole)) if form]


def _pointless(text: str) -> str:
    text = text.rstrip()
    return text[:-1] if text.endswith((".", "!", "\u3002")) else ""


def _first(forms: Iterable[str], options: Sequence[str], dresses: Iterable[Callable[[str], str]]) -> int | None:
    """The option that equals a form in the strictest dress in which one does; None where two are equal."""
    forms = list(forms)
    for dress in dresses:
        texts = [dress(option) for option in options]
        for form in forms:
            worn = dress(form)
            if worn and worn in texts:
                return texts.index(worn) if texts.count(worn) == 1 else None
    return None


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _folded(text: str) -> str:
    return clean(text).casefold()


def _tight(text: str) -> str:
    text = _DECIMAL.sub(lambda match: match.group().rstrip("0").rstrip("."), _RAISED.sub("", alike(text)))
    return text.casefold().replace(" ", "").rstrip(".,;:!")


def _read(answer: str, options: Sequence[str], offered: str) -> str | None:
    """What a clean answer names."""
    forms = _forms(answer)
    if (at := _first(forms, options, (clean,))) is not None:
        return offered[at]
    for form in forms:
        whole = phrases.WHOLE.fullmatch(form)
        if whole and whole.group(1).upper() in offered:
            return whole.group(1).upper()
    if (at := _first(forms, options, (_folded, _tight, said))) is not None:
        return offered[at]
    if (at := _by_value(forms, options)) is not None:
        return offered[at]
    if (again := list(phrases.AGAIN.finditer(answer))) and answer[: again[-1].start()].strip():
        behind = answer[again[-1].end() :]
        later = _read(behind, options, offered) if behind else None
        if later or phrases.TAKEN_BACK.search(behind):
            return later
        answer = answer[: again[-1].start()]
    if named := _named(answer, offered):
        return None if _joined(answer, named, offered) else named.group("letter").upper()
    if letter := _opening(answer, options, offered):
        return letter
    if phrases.REFUSED.search(answer) and not any(phrases.REFUSED.search(option) for option in options):
        rest = list(phrases.NEVERTHELESS.finditer(answer))
        if not rest:
            return None
        answer = answer[rest[-1].end() :]
    return _only_text(answer, options, offered) or _only_capital(answer, offered)


def _named(answer: str, offered: str) -> re.Match[str] | None:
    """Where the answer names its letter: "answer is B" before a concluding "so B" before the only "option B"."""
    found = [match for match in phrases.NAMED.finditer(answer) if _is_named(match, answer, offered)]
    answers = [match for match in found if match.group("kind").lower() not in ("option", "choice")]
    concluded = phrases.CONCLUDED.search(answer)
    if answers or (concluded and concluded.group("letter") in offered):
        return answers[-1] if answers else concluded
    best = [
        match
        for match in found
        if phrases.AFFIRMED.match(answer[match.end("letter") :]) or phrases.BEST.search(_before(answer, match.start()))
    ]
    found = best or found
    if found and found[0].start() == 0 and "." in found[0].group("tail"):
        return found[0]
    return found[-1] if len({match.group("letter").upper() for match in found}) == 1 else None


def _is_named(match: re.Match[str], answer: str, offered: str) -> bool:
    letter, behind = match.group("letter"), answer[match.end("letter") : match.end("letter") + 40]
    article = letter == "a" and match.group("tail").isspace() and match.end() < len(answer)
    if letter.upper() not in offered or article or phrases.DENIED.match(behind):
        return False
    return not phrases.NEGATED.search(_before(answer, match.start())) and not _initials(behind)


def _initials(behind: str) -> bool:
    """Whether what follows a letter makes initials of it: "A.D.", "A. A. Milne"."""
    return phrases.INITIALS.match(behind) is not None


def _joined(answer: str, match: re.Match[str], offered: str) -> bool:
    """Whether another letter is offered in the same breath: "A or B", "A, B"."""
    other = phrases.JOINED.match(answer, match.end("letter"))
    if other is None or other.group(1).upper() not in offered or other.group(1) in ("a", "i"):
        return False
    behind = answer[other.end() :]
    article = other.group(1) in ("A", "I") and phrases.WORD_A.match(behind)
    told = phrases.DENIED.match(behind) or phrases.TOLD.match(behind)
    return other.group(1).upper() != match.group("letter").upper() and not article and not told


def _opening(answer: str, options: Sequence[str], offered: str) -> str | None:
    match = phrases.OPENING.match(answer)
    if not match or match.group(1).upper() not in offered:
        return None
    letter, rest = match.group(1).upper(), match.group("rest")
    if said(rest) == said(options[offered.index(letter)]):
        return letter
    if _initials(answer[match.end(1) :]):
        return None
    others = {found for found in phrases.CAPITAL.findall(rest) if found in offered} - {letter, "A", "I"}
    listed = set(phrases.LISTED.findall(rest)).intersection(offered) - {letter}
    # Another letter in a sentence of its own explains the first; a list of letters names none.
    explained = re.search(r"[a-z]{3}", rest) and not listed and not phrases.HEDGE.search(rest)
    return letter if (not others and not listed) or explained else None


def _by_value(forms: Iterable[str], options: Sequence[str]) -> int | None:
    """The only option that is the same number as a form: 0.75 is 3/4, 12 is 12 cm where no other unit has 12."""
    for form in forms:
        said = amount(form) or amount(alike(form))
        if said is None:
            continue
        values = [amount(option) or amount(alike(option)) for option in options]
        same = [(at, one.unit) for at, one in enumerate(values) if one is not None and one.meets(said)]
        fitting = [at for at, unit in same if unit == said.unit]
        # The unit may be left out, or may stand in the question; "2%" is no other way to write 2.
        fitting = fitting or [at for at, unit in same if not said.unit or (not unit and said.unit != "%")]
        return fitting[0] if len(fitting) == 1 else None
    return None


def _only_capital(answer: str, offered: str) -> str | None:
    if len(set(phrases.LISTED.findall(answer)).intersection(offered)) > 1:
        return None
    found, placed = _capitals(answer, offered)
    return found.pop() if len(found | placed) == 1 and found else None


def _capitals(answer: str, offered: str) -> tuple[set[str], set[str]]:
    """The offered letters that stand in the answer as letters and are not denied; and those that name a place."""
    found, placed = set(), set()
    named = 0  # where initials and the name behind them end
    for match in phrases.CAPITAL.finditer(answer):
        letter, behind = match.group(1), answer[match.end() : match.end() + 40]
        before = _before(answer, match.start())
        word = letter in ("A", "I") and phrases.WORD_A.match(behind)
        if letter not in offered or word or phrases.DENIED.match(behind) or phrases.NEGATED.search(before.lower()):
            continue
        if match.start() < named:
            continue
        if (initials := phrases.INITIALS.match(behind)) is not None:
            named = match.end() + initials.end()
            continue
        if phrases.BRINGS.search(before) and not phrases.NAMES_ON.match(behind) and not phrases.TITLE.search(before):
            found.add(letter)
        elif phrases.PLACES.search(before):
            placed.add(letter)
    return found, placed


def _only_text(answer: str, options: Sequence[str], offered: str) -> str | None:
    texts, heard = [said(option) for option in options], said(answer)
    if len({text for text in texts if text}) < len(options):
        # Words alone don't tell these options apart, as "x > 1" and "x < 1": their marks must.
        texts, heard = [_folded(option) for option in options], re.sub(r"[.,;!?](?=\s|$)", " ", _folded(answer))
        texts, heard = [_spaced(text) for text in texts], _spaced(heard)
    hits = []
    for letter, option, text in zip(offered, options, texts, strict=True):
        if text and f" {text} " in f" {heard} " and _occurs(text, heard, option, answer):
            hits.append((letter, text))
    # "both increase and decrease" holds two other options' texts; the longest explains them.
    hits = [hit for hit in hits if not any(hit[1] != text and f" {hit[1]} " in f" {text} " for _, text in hits)]
    if len(hits) != 1:
        return None
    # Where a text is a letter itself, another lone letter beside it leaves open which of the two is meant.
    other = len(hits[0][1]) == 1 and _capitals(answer, offered)[0] - {hits[0][1].upper()}
    return None if other else hits[0][0]


def _occurs(text: str, heard: str, option: str, answer: str) -> bool:
    """Whether the text stands somewhere in the answer without being denied; one letter only as it is written."""
    if len(text) == 1 and text.isascii() and text.isalpha():
        bare = option.strip().strip("().")
        found = [m for m in re.finditer(rf"(?<![\w'.]){re.escape(bare)}(?![\w'-])", answer)]
        word = bare in ("a", "I", "A")
        return any(
            not (word and phrases.WORD_A.match(answer[m.end() :])) and not _denied(answer, m.start(), m.end())
            for m in found
        )
    padded, start = f" {heard} ", 0
    while (at := padded.find(f" {text} ", start)) >= 0:
        if not _denied(heard, at, at + len(text)) and not re.search(rf"\bno {re.escape(text)}\b", answer.lower()):
            return True
        start = at + 1
    return False


def _denied(text: str, start: int, end: int) -> bool:
    return bool(phrases.NEGATED.search(_before(text, start)) or phrases.DENIED.match(text[end : end + 40]))


def _before(text: str, at: int, width: int = 40) -> str:
    return text[max(0, at - width) : at]
