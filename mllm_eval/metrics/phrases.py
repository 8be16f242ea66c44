"""Phrases around a letter or an option's text: what names it, what denies it, takes it back or refuses to say."""

from __future__ import annotations

import re

NEAR = r"[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_ANY = re.IGNORECASE
WHOLE = re.compile(r"(?:[-*>#]+ )?[\s(\[{\"'.:<*]*([A-Za-z])[\s)\]}\"'.,:;!>*\u3002]*")
INTRO = re.compile(
    r"\s*(?:(?:so|thus|hence|therefore|ok|okay),? )?(?:(?:my|the|its) )?(?:(?:final|correct|right|best) )?"
    r"(?:answer|option|choice)\s?(?:is\s?:|is\b|:|=) ?",
    _ANY,
)
LAST = re.compile(r"\banswer\s*(?:is\b\s*:?|:)\s*|\u7b54\u6848\s*(?:\u662f|\u4e3a|:)\s*:?\s*", _ANY)
NAMED = re.compile(
    r"(?P<kind>\b(?:answer|option|choice)\b|\u7b54\u6848|\u9009\u9879?)\s*(?:is\b|[:=]|\u662f|\u4e3a)?\s*:?\s*"
    r"(?:option\s+|choice\s+|letter\s+)?[(\[\"']*(?P<letter>[A-Za-z])"
    rf"(?P<tail>[)\]\"'.,:;!\u3002]+(?!\w)|\s+|$|(?!{NEAR})(?=\w))",
    _ANY,
)
CONCLUDED = re.compile(
    r"\b(?:so|therefore|thus|hence|pick|choose|select|guess|go with|say)[,:]? (?:it(?:'s| is| must be) )?"
    r"[(\[\"']*(?P<letter>[A-Z])[)\]\"'.!]*$",
    _ANY,
)
AFFIRMED = re.compile(
    r"[)\]\"'.]*\s+(?:is|seems|looks)\s+(?:\w+ly\s+)?(?:the\s+)?(?:correct|right|true|best|answer|most|likely)\b", _ANY
)
BEST = re.compile(r"\b(?:correct|right|best|chosen|final|my)\s*$", _ANY)
OPENING = re.compile(r"(?:[-*>#]+ )?[(\[\"']*([A-Za-z])(?:[)\]\"'.:]+\s*|\s+-\s+)(?P<rest>.*)", re.DOTALL)
FIRST_LINE = re.compile(r"^\s*[(\[*]*([A-Z])[)\]*.:]*\s*\n(?=.*[a-z]{3})", re.DOTALL)
LISTED = re.compile(r"(?:^|[\s(\[])([A-Z])[.):]\s*\w")
# A letter stands alone unless a letter or digit of its own script touches it.
CAPITAL = re.compile(rf"(?<!{NEAR})(?<!['\u00b0/&+_-])([A-Z])(?!{NEAR})(?!['\u00b0/&+#_^-]|\.\w|\s\d)")
# Behind an initial: a point with a letter at it, or more initials and a name.
INITIALS = re.compile(r"\.\w|\.?\s?(?:[A-Z]\.\s?)+[A-Z][\w'-]*[a-z]|(?:\s[A-Z])+\s[A-Z][a-z'-]{2}")
# A second letter that is offered in the same breath.
JOINED = re.compile(
    r"[)\]\"'.]*\s*(?:,|/|&|,?\s*\b(?:or|and|and/or)\b)\s*(?:(?:maybe|perhaps|possibly|even|also|either) )?"
    r"(?:option |choice )?[(\[\"']*([A-Za-z])(?!\w)"
)
TOLD = re.compile(r"\s+(?:is|are|shows|has|was|looks|does|seems)\b")
HEDGE = re.compile(r"\b(?:also|might|could|may|maybe|possibl[ey]|perhaps|either|alternatively|unsure)\b", _ANY)

# What stands right before something that is denied, a list of letters between them included.
NEGATED = re.compile(
    r"(?:\bnot|\bcannot|n't|\bnor|\bneither|\bexcept|\bthan|\binstead of|\bunlike"
    r"|\b(?:exclud|eliminat|reject|discard)(?:e|es|ed|ing)|\brul(?:e|es|ed|ing) out)"
    r"(?:\s+(?:an?|the|be|as|with|for|options?|choices?|answers?|[b-z],?|and|or|nor)(?!\w)|\s+a,?(?= )|\s*,)*"
    r"\s*[(\[\"']*$|[\u4e0d\u975e]\s?\u662f\s*$|\u6ca1\s?\u6709\s*$",
    _ANY,
)
DENIED = re.compile(
    r"[)\]\"'.]*\s*(?:(?:is|are|was|were|seems|looks|can|could|do|does|did|would|will)\s*(?:not\b|n't)|cannot\b|isn't"
    r"|can't|(?:is|are|was|seems|looks)\s+(?:\w+ly\s+)?"
    r"(?:wrong|incorrect|false|ruled out|excluded|impossible|too|neither|out)\b)",
    _ANY,
)
# Before a lone letter: what brings an answer. Behind any other word ("point D", "25 C") it is a part of a name.
_BRINGING = """be is it's that's was are am answers? options? choices? letters? choos(?:e|es|ing) chose pick(?:s|ed)?
select(?:s|ed)? sa(?:y|ys|id) think believe guess(?:ing)? go between among [A-Z],? as so therefore thus hence then mean
means and or but not nor only just both either neither correct right definitely probably clearly likely certainly
matches indicates suggests favou?r conclude prefer equals leaves? remains"""
_TWO = r"go(?:es|ing)? with|(?:corresponds?|down|equal|leads?|closest) to|correct(?:ly)? as"
BRINGS = re.compile(
    r"(?:^|[.,:;!?(\[\"'\u3002*>-]\s*|[\u3040-\u30ff\u3400-\u9fff]|=\s*"
    rf"|\b(?:{'|'.join(_BRINGING.split())}|{_TWO})\s+)[(\[\"'*]*$",
    _ANY,
)
# A letter behind these is no answer, and beside another letter it leaves none ("from A to B").
PLACES = re.compile(r"\b(?:from|to|of|at|in|on|by|near|like|than|via|over|under|with)\s+[(\[\"']*$", _ANY)
NAMES_ON = re.compile(
    r"\s+(?:major|minor|sharp|flat|vitamins?|cells?|strings?|chords?|levels?|sections?|team|side|day)\b"
)
TITLE = re.compile(r"\w\.$|\b(?:mrs?|ms|dr|st|fig|prof|[A-Z])\.\s$", _ANY)
# "A picture" and "I think" are words, "A because" is a letter.
WORD_A = re.compile(
    r"\s+(?!(?:or|and|rather|instead|but|not|only|is|was|because|since|as|matches|fits|seems|looks|appears|shows|would"
    r"|it|to)\b)[a-z']"
)

AGAIN = re.compile(
    r"(?:^|[.!?,;:\n)*-]\s*|\s-\s)(?:oh |but |no,? |hmm,? |oops,? |and )*"
    r"(?:wait|actually|hmm+|oops|correction|sorry|scratch that|on second thoughts?|i mean|or rather"
    r"|let me (?:correct|rethink|reconsider|re-?check)|no(?=,? [(\"]?[A-Z]\b))\b[\s,.:;!-]*",
    _ANY,
)
TAKEN_BACK = re.compile(r"\b(?:wrong|incorrect|mistake|mistaken|not|no|error)\b|n't\b", _ANY)
REFUSED = re.compile(
    r"\b(?:cannot|can't|can not|could not|couldn't|unable to|not able to|(?:im|not )possible to|hard to|difficult to)"
    r"\s+(?:be\s+)?(?:\w+ly\s+)?(?:determin|tell|see|say|identif|answer|know|provid|assist|help|view|discern|make out"
    r"|decide|infer|choose|pick|select)\w*"
    r"|\b(?:do not|don't) know\b|\bnot sure\b|\bunsure\b|\binsufficient\b|\bno idea\b"
    r"|(?:\bnot|n't) (?:\w+ )?enough information\b|\bnone of (?:the|these|them|those)\b",
    _ANY,
)
NEVERTHELESS = re.compile(
    r"\b(?:but|however|still|nevertheless|(?:best|educated) guess|if i (?:had|have) to|would guess)\b", _ANY
)
