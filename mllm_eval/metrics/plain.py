"""Answers freed of what says nothing about them: reasoning, markup, look-alike characters, opening phrases."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from mllm_eval.metrics.numerals import folded

LONGEST = 20_000

# What models write before an answer: tags of their own, or special tokens that the decoder kept.
_NAMES = r"think(?:ing)?|thoughts?|reason(?:ing)?|rationale|reflection|analysis|scratchpad|summary|caption|seed:think"
_OPENS = re.compile(
    rf"<(?:{_NAMES})>|\u25c1think\u25b7|\[think\]|<unused94>|<\|(?:begin_of_thought|start_thinking|inner_prefix|think)\|>"
    r"|<\|channel\|>\s*(?:analysis|commentary)\b[^<]*<\|message\|>|<\|channel>\s*thought",
    re.IGNORECASE,
)
_CLOSES = re.compile(
    rf"</(?:{_NAMES})>|\u25c1/think\u25b7|\[/think\]|<unused95>|<\|(?:end_of_thought|end_thinking|inner_suffix|/think)\|>"
    r"|<\|channel\|>\s*final\b[^<]*<\|message\|>|<channel\|>|here is my response:",
    re.IGNORECASE,
)
_BARE_CHANNELS = re.compile(r"\s*(?:assistant)?analysis.*assistant\s?final(?P<answer>.*)", re.DOTALL)
_ANSWERS = re.compile(
    r"<(answer|final_answer|conclusion|response)>(.*?)(?:</\1>|\Z)"
    r"|<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|\Z)"
    r"|<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_BOX = re.compile(r"\\f?boxed\s*\{")
_SPECIAL = re.compile(r"<\|[A-Za-z_]{2,30}\|>|</s>|<(?:eos|pad|end_of_turn)>")
_EITHER = re.compile(r"[\s$,.]*(?:or|and|/)?[\s$]*", re.IGNORECASE)
_HEADING = re.compile(
    r"^[ \t]*(?:#{1,6}[ \t]*|\*\*[ \t]*)(?:the )?(?:final |correct )?answer[ \t*:]*$", re.IGNORECASE | re.MULTILINE
)

_INVISIBLE = dict.fromkeys([0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0x00AD])
_ALIKE = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u02bc\u2032", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u2033", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63\uff0d", "-"),
        "\u2044": "/",
        "\u2215": "/",
    }
)
_RAISED = dict(
    zip("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b", "0123456789+-", strict=True)
)
_HIGH = re.compile(f"[{''.join(_RAISED)}]+")
# A whole number before a fraction that is one character: NFKC would make 21/2 of 2 and a half.
_MIXED = re.compile("(?<=\\d)(?=[\u00bc-\u00be\u2150-\u215e])")

_MARKS = frozenset("\\<*`$_^")
# A mark is markup where it has a partner and both touch what they enclose: "a*b" and "$5 or $50" have none.
_PAIRS = re.compile(
    r"(?<![\w*])(?P<stars>\*{1,3})(?=[^\s*])(?P<starred>[^*]*[^\s*])(?P=stars)(?![\w*])"
    r"|(?P<ticks>`{1,3})(?P<code>[^`]*)(?P=ticks)"
    r"|(?P<money>\${1,2})(?=[^\s$])(?P<formula>[^$]*[^\s$])(?P=money)(?!\d)"
    r"|(?<!\w)__(?=\S)(?P<bold>[^_]*[^\s_])__(?!\w)"
    r"|\\\((?P<inline>.{0,300}?)\\\)|\\\[(?P<block>.{0,300}?)\\\]"
    r"|<(?P<tag>[a-z][a-z0-9]{0,11})>(?P<tagged>[^<]*)</(?P=tag)>|<(?:br|hr)\s*/?>",
    re.DOTALL | re.IGNORECASE,
)
_FONT = re.compile(
    r"\\(?:f?boxed|text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|operatorname|mbox)\s*\{([^{}]*)\}"
)
_ROOT = re.compile(r"\\sqrt\s*(?:\{(\w+)\}|(?=\{))")
_FRACTION = re.compile(r"(?<=\d)\s*\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}|\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\([A-Za-z]+|[%$&#,;!])")
_COMMANDS = {
    **{"times": "\u00d7", "cdot": "\u00b7", "circ": "\u00b0", "degree": "\u00b0", "div": "\u00f7", "pm": "\u00b1"},
    **{"le": "\u2264", "leq": "\u2264", "ge": "\u2265", "geq": "\u2265", "ne": "\u2260", "neq": "\u2260"},
    **{"lt": "<", "gt": ">", "infty": "\u221e", "left": "", "right": "", "quad": " ", "$": "$", "%": "%", "&": "&"},
    **{"#": "#", ",": " ", ";": " ", "!": ""},
}
_NAMES_OF_GREEK = """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi
chi psi omega"""
_GREEK = {
    name: unicodedata.lookup(f"GREEK SMALL LETTER {name.replace('lambda', 'lamda')}")
    for name in _NAMES_OF_GREEK.split()
}
_GREEK |= {name.capitalize(): letter.upper() for name, letter in _GREEK.items()}
_SCRIPT = re.compile(r"([\^_])\{([^{}]{1,12})\}")
_INDEX = re.compile(r"(?<=[A-Za-z)])_(?=\d)")

_LEAD = re.compile(r"\banswer\s*(?:is\b\s*:?|:)|\u7b54\u6848\s*(?:\u662f|\u4e3a|:)\s*:?", re.IGNORECASE)
_AGAIN = re.compile(r"[\s.,;!?-](?:wait|actually|correction|on second thoughts?|scratch that)\b", re.IGNORECASE)
# A minus counts before a number that nothing touches: "-5", not "2014-2016".
_WORD = re.compile(r"(?:(?<![^\s(\[{,$=])-(?=\d))?[^\W_]+(?:[.,'][^\W_]+)*")
_TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]|(?<![\w.)\]])[-+\u221a]?(?:\d+(?:[.,]\d+)*|\.\d+)%?|\d+(?:[.,]\d+)*%?|[^\W_\u3040-\u30ff\u3400-\u9fff]+"
    r"(?:'[^\W_]+)*"
)
_THOUSANDS = re.compile(r"(?<![\d.,])([-+]?\d{1,3}(?:,\d{3})+)(?![\d,])")
_PERCENT = re.compile(r"(?<=\d)\s*(?:%|\b(?:percent|per cent)\b)")
_MINUS = re.compile(r"(?<!\d )\b(?:minus|negative) (?=\.?\d)")


def spoken(text: str) -> str:
    """The answer without the reasoning before it, and what an answer's own tag or box holds.

    Reasoning that never ends leaves nothing: the model was cut off before it answered.
    """
    if text.lstrip()[:9].startswith(("analysis", "assistant")) and (bare := _BARE_CHANNELS.match(text)):
        text = bare.group("answer")
    if not _MARKS.isdisjoint(text) or "[" in text or "\u25b7" in text or "response:" in text:
        text = _answered(_unreasoned(text))
        text = _SPECIAL.sub(" ", text) if "<" in text else text
    if ("#" in text or "**" in text) and "nswer" in text:
        text = _HEADING.sub("Answer:", text)
    return text


def _unreasoned(text: str) -> str:
    closes = [match.end() for match in _CLOSES.finditer(text)]
    behind = text[closes[-1] :] if closes else text
    opened = _OPENS.search(behind)
    if opened is not None:
        # Nothing behind it ends the reasoning, unless the model gave its answer in tags.
        rest = behind[opened.end() :]
        kept = behind[: opened.start()]
        behind = kept if _SPECIAL.sub("", kept).strip() else rest if rest.rstrip().endswith("</answer>") else ""
    if closes and not _SPECIAL.sub("", behind).strip():
        first = _OPENS.search(text)
        return text[: first.start()] if first else ""
    return behind


def _answered(text: str) -> str:
    """What the last tag for an answer, or the last box, holds; all of the text where it offers several at once."""
    found = [(m.start(), m.end(), next(g for g in m.groups()[1:] if g is not None)) for m in _ANSWERS.finditer(text)]
    found = found or _boxes(text)
    if not found:
        return text
    (start, _, last), before = found[-1], found[-2:-1]
    if before and before[0][2].strip() != last.strip() and _EITHER.fullmatch(text[before[0][1] : start]):
        return text
    return _answered(last) if _BOX.search(last) else last


def _boxes(text: str) -> list[tuple[int, int, str]]:
    found = []
    for match in list(_BOX.finditer(text))[-9:] if "boxed" in text else ():
        depth = 1
        for at in range(match.end(), min(len(text), match.end() + 1000)):
            depth += (text[at] == "{") - (text[at] == "}")
            if depth == 0:
                found.append((match.start(), at + 1, text[match.end() : at]))
                break
    return found


def clean(text: str, formulas: bool = True) -> str:
    """One form for look-alike characters, no invisible ones, no markup, single spaces.

    With `formulas` LaTeX becomes what it shows: a fraction 1/2, a Greek letter itself, an index a mere digit.
    """
    if not text.isascii():
        text = _HIGH.sub(lambda match: "^" + "".join(_RAISED[mark] for mark in match.group()), text)
        text = unicodedata.normalize("NFKC", _MIXED.sub(" ", text)).translate(_INVISIBLE).translate(_ALIKE)
    if not _MARKS.isdisjoint(text):
        for _ in range(4):
            before, text = text, _PAIRS.sub(_inside, text)
            if "\\" in text:
                text = _FONT.sub(r"\1", text)
                text = _FRACTION.sub(_divided, _ROOT.sub("\u221a\\1", text)) if formulas else text
            if text == before:
                break
        if formulas:
            text = _COMMAND.sub(_symbol, text) if "\\" in text else text
            text = _INDEX.sub("", _SCRIPT.sub(_script, text)).replace("^\u00b0", "\u00b0")
    return " ".join(text.split())


def _inside(match: re.Match[str]) -> str:
    parts = match.group("starred", "code", "formula", "bold", "inline", "block", "tagged")
    return next((part for part in parts if part is not None), " ")


def _divided(match: re.Match[str]) -> str:
    above, below = (part.strip() for part in match.groups() if part is not None)
    above, below = (part if re.fullmatch(r"\w+", part) else f"({part})" for part in (above, below))
    return f" {above}/{below}" if match.group(1) is not None else f"{above}/{below}"


def _symbol(match: re.Match[str]) -> str:
    name = match.group(1)
    return _COMMANDS.get(name, _GREEK.get(name, match.group()))


def _script(match: re.Match[str]) -> str:
    # An index as H_{2}O is H2O; other braces only go where they hold a single number.
    mark, inner = match.groups()
    if mark == "_":
        return inner if inner.isdigit() else match.group()
    return f"^{inner}" if re.fullmatch(r"[-+]?\d*[-+]?|\w|\u00b0", inner) else match.group()


def plain(text: str, formulas: bool = True) -> str:
    """The answer proper, cleaned.

    Of an answer of more than 20,000 characters the first and the last 10,000 are read.
    """
    text = spoken(text)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} {text[-LONGEST // 2 :]}"
    return clean(text, formulas)


def final(text: str) -> str:
    """What follows the last "answer is", "answer is:" or "answer:" of a plain text, else all of it."""
    ends = [match.end() for match in _LEAD.finditer(text)]
    rest = text[ends[-1] :].strip(" :") if ends else ""
    return rest or text


def words(text: str) -> list[str]:
    """Lower-case words without punctuation and articles; number words as digits, 1,000 as 1000."""
    found = [word.replace(",", "") if word.lstrip("-")[0].isdigit() else word for word in _WORD.findall(text.lower())]
    kept = folded([word for word in found if word not in ("a", "an", "the")])
    return kept or found


def yes_or_no(text: str) -> str | None:
    """The opening yes or no, else the only one of the two that occurs; None for neither or both.

    Behind a second thought ("Yes. Wait, no") the later one counts; "no idea" is neither.
    """
    text = plain(text)
    if _AGAIN.search(text):
        *_, text = [text, *(rest for rest in _AGAIN.split(text)[1:] if not {"yes", "no"}.isdisjoint(words(rest)))]
    said = words(final(text))
    if said[:2] in (["no", "idea"], ["no", "clue"], ["no", "information"]):
        return None
    short = {"y": "yes", "n": "no"}
    if said and said[0] in ("yes", "no"):
        return None if said[1:2] in (["or"], ["and"], ["yes"], ["no"]) else said[0]
    if len(said) == 1:
        return short.get(said[0])
    both = {word for word in said if word in ("yes", "no")}
    return both.pop() if len(both) == 1 else None


def alike(text: str) -> str:
    """Clean, with one form for numbers."""
    text = clean(text)
    if any(map(str.isdigit, text)):
        text = _MINUS.sub("-", _PERCENT.sub("%", _THOUSANDS.sub(lambda m: m.group().replace(",", ""), text)))
        text = re.sub(r"(?<![\d.\w])\.(?=\d)", "0.", text)
    return text


def said(text: str) -> str:
    """The text as its words, lower case, without punctuation and articles, number words as digits."""
    return _words(text) if len(text) < 200 else _words.__wrapped__(text)


@lru_cache(maxsize=16_384)
def _words(text: str) -> str:
    found = _TOKEN.findall(alike(text))
    kept = [
        word.lower()
        for at, word in enumerate(found)
        if not (word.lower() in ("an", "the") or (word in ("a", "A") and _article(found, at)))
    ]
    return " ".join(folded(kept) or map(str.lower, found))


def _article(found: list[str], at: int) -> bool:
    # The A of "vitamin A" is a name, that of "A dog" is an article.
    if at + 1 == len(found) or found[at + 1] in ("and", "or"):
        return False
    return found[at] == "a" or (at == 0 and found[1][:1].islower())
