"""The answer normaliser of M4C/Pythia that EvalAI uses for TextVQA, as it runs, not as it was meant.

Its faults: a period behind a digit goes, too (a lookbehind mistyped), only the first 32 periods go (a flag
passed as the count), no curly apostrophes, and `'s` is a word of its own.
"""

from __future__ import annotations

import re
from functools import lru_cache

from mllm_eval.metrics.numerals import WORDS

_MARKS = frozenset(';/[]"{}()=+\\_-><@`,?!')
_PERIOD = re.compile(r"\.(?!\d)")
_MENDED = re.compile(r"(?<!\d)\.|\.(?!\d)")
_ARTICLES = {"a", "an", "the"}
_NUMBERS = {"none": "0", **{word: str(number) for word, number in WORDS.items() if number <= 10}}
# Each word stands for the form without its apostrophe; words with two are met with either one missing.
_ONE = """ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll
how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've
shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're
there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd
where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're
you've"""
_TWO = """couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've
something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've"""
_CONTRACTIONS = {word.replace("'", ""): word for word in _ONE.split()}
for _word in _TWO.split():
    _first, _last = _word.index("'"), _word.rindex("'")
    _CONTRACTIONS[_word[:_first] + _word[_first + 1 :]] = _word
    _CONTRACTIONS[_word[:_last] + _word[_last + 1 :]] = _word
_CONTRACTIONS |= {
    "somebody'd": "somebodyd",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
}
_CONTRACTIONS |= {word: "y'all'd've" for word in ("yall'd've", "y'alld've", "y'all'dve")}


def normal(text: str, mended: bool = False) -> str:
    """The normal form of an answer; mended, periods go unless they stand between digits, all of them.

    A mended form is never empty for a text that holds a word: the answer "a" stays "a".
    """
    return _normal(text, mended) if len(text) < 200 else _normal.__wrapped__(text, mended)


@lru_cache(maxsize=16_384)
def _normal(text: str, mended: bool) -> str:
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    out = text
    for mark in _MARKS.intersection(text):
        beside_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if beside_space else " ")
    out = _MENDED.sub("", out) if mended else _PERIOD.sub("", out, count=32)
    said = [_NUMBERS.get(word, word) for word in out.lower().split()]
    kept = [word for word in said if word not in _ARTICLES] or (said if mended else [])
    return " ".join(_CONTRACTIONS.get(word, word) for word in kept)
