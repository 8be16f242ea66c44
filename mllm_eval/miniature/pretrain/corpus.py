"""Text of the miniature's world: what the tokenizer, the LLaMA and CLIP's text tower read."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from mllm_eval.miniature.phrasing import LETTERS, Asked, ask, letter, listed, options, short
from mllm_eval.miniature.world import KINDS, Picture, draw
from mllm_eval.miniature.world.objects import COLOR_NAMES, LABELS, PATTERNS
from mllm_eval.miniature.world.picture import SHAPES, Question
from mllm_eval.miniature.world.print_ import WORDS

NEEDS_SENTENCE = ("distance",)
"""Families that the words of a layout cannot answer."""
FORMS = ("caption", "caption", "caption", "layout 4", "layout 4", "layout 6", "exercise", "exercise")
"""What the texts of one step are made of; one form a step, so that they are of similar length."""
DESCRIBE = "Describe the image."
BEGIN, HEAD, END = "<|begin_of_text|>", "<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>"
STYLES = ("{}. {}", "{}. {}", "({}) {}")
"""How the benchmarks letter their options."""
Segments = list[tuple[str, bool]]
KEYED = ("scene", "diagram", "signs", "chart", "table", "number", "figure", "form")
LOOKED_UP = ("scene", "diagram", "signs", "chart", "table")
_POOLS = (COLOR_NAMES, SHAPES, WORDS, LABELS, tuple("123456789"))


def tokenizer_texts(pictures: int = 400) -> Iterator[str]:
    """Captions, layouts, prompts and answers of some pictures of every kind."""
    for index in range(pictures):
        for kind in KINDS:
            pic, rng = draw("text", index, kind), Random(f"text/{kind}/{index}")
            yield pic.caption
            yield pic.layout()
            yield DESCRIBE
            for question in pic.questions:
                asked = ask(question, rng)
                yield from (asked.prompt, asked.answer)


def shuffled_caption(pic: Picture, rng: Random) -> str:
    """The caption with its sentences in any order."""
    sentences = list(pic.sentences)
    rng.shuffle(sentences)
    return " ".join(sentences)


def turns(context: str, asked: list[Asked]) -> Segments:
    """A conversation in LLaMA-3's template about a context in words; True marks what is learnt."""
    segments: Segments = []
    for k, (prompt, answer) in enumerate(asked):
        text = (BEGIN if k == 0 else "") + HEAD.format("user") + (f"{context}\n" if k == 0 else "") + prompt + END
        segments += [(text + HEAD.format("assistant"), False), (answer + END, True)]
    return segments


def conversation(rng: Random, index: int, form: str) -> Segments:
    """One training text of a form: questions about a picture told in words, or a pure look-up exercise."""
    if form == "exercise":
        return exercise(rng)
    pic = draw("llm", index, rng.choice(list(KINDS)))
    as_layout = form != "caption"
    context = pic.layout(int(form[-1])) if as_layout else shuffled_caption(pic, rng)
    usable = [q for q in pic.questions if not (as_layout and q.family in NEEDS_SENTENCE)]
    chosen = rng.sample(usable, min(len(usable), 2))
    asked = [ask(q, rng) for q in chosen]
    if rng.random() < 0.5 and asked and chosen[0].choices[0] not in ("yes", "no"):
        asked[:1] = [short(chosen[0], rng), letter(chosen[0], rng)]
    if as_layout and (rng.random() < 0.15 or not asked):
        asked.insert(0, Asked(DESCRIBE, pic.caption))
    return turns(context, asked)


def _words(rng: Random, n: int, single: bool = False) -> list[str]:
    pool = [*COLOR_NAMES, *PATTERNS, *SHAPES, *WORDS]
    if not single:
        pool += [*LABELS, *(str(k) for k in range(100)), "left of", "right of", "above", "below"]
        pool += [f"{c} {s}" for c in COLOR_NAMES for s in SHAPES]
    return rng.sample(pool, n)


def copy_exercise(rng: Random) -> Segments:
    """Repeat a list of words: the first thing that a model must be able to do before it can look anything up."""
    words = _words(rng, rng.randint(2, 5))
    return turns(" ".join(words), [Asked("Repeat the words.", " ".join(words))])


def letter_drill(rng: Random) -> Segments:
    """The shortest look-up of a letter: a list of options, then words of it, each followed by its letter.

    In whole prompts this look-up stays at chance for thousands of steps; in texts of forty tokens it comes within
    one thousand, and is then carried over to whole prompts.
    """
    words = _words(rng, rng.choice((2, 3, 4, 4)), single=True)
    style, joint = rng.choice((("a {} {}", ", "), ("{} {}", "\n"), ("{}. {}", "\n"), ("({}) {}", "\n")))
    segments: Segments = [(BEGIN + listed(words, style, joint), False)]
    for _ in range(4):
        index = rng.randrange(len(words))
        segments += [(f"\n: {words[index]}", False), (LETTERS[index], True)]
    return segments


def pair_drill(rng: Random) -> Segments:
    """The shortest look-up of a fact: a list of pairs, then one half of some, each followed by the other half.

    What a price, a bar's value or a diagram's label asks of a model; it does not come from whole prompts alone.
    """
    n = rng.choice((2, 3, 3, 4))
    left, right = rng.sample(_POOLS, 2)
    keys, values = rng.sample(left, n), rng.sample(right, n)
    style, joint = rng.choice((("{} {}", ", "), ("a {} {}", ", "), ("a {} {}", ". "), ("{} says {}", ", ")))
    lead = rng.choice(("", "A list: ", "A diagram with labels: ", "A receipt: ", "A bar chart: "))
    told = joint.join(style.format(k, v) for k, v in zip(keys, values, strict=True))
    segments: Segments = [(f"{BEGIN}{lead}{told}.", False)]
    for _ in range(5):
        index, back = rng.randrange(n), rng.random() < 0.4
        asked, answer = (values, keys) if back else (keys, values)
        segments += [(f"\n: {asked[index]}", False), (answer[index], True)]
    return segments


def claim_drill(rng: Random) -> Segments:
    """The shortest yes or no: a list of words or of pairs, then claims that are in it, or almost."""
    n = rng.choice((1, 2, 3, 4))
    left, right = rng.sample(_POOLS, 2)
    keys, values = rng.sample(left, n + 1), rng.sample(right, n + 1)
    segments: Segments = [(BEGIN + ", ".join(f"a {k} {v}" for k, v in zip(keys[:n], values[:n], strict=True)), False)]
    for _ in range(5):
        index, true = rng.randrange(n), rng.random() < 0.5
        key, value = keys[index], values[index]
        if not true and rng.random() < 0.5:
            key = rng.choice([k for k in keys if k != key])
        elif not true:
            value = rng.choice([v for v in values if v != value])
        segments += [(f"\n: {key} {value}?", False), ("yes" if true else "no", True)]
    return segments


def dense_conversation(rng: Random, index: int) -> Segments:
    """Four questions about one picture told in words, most pictures being of the kinds that need a look-up by key."""
    kind = rng.choice(KEYED if rng.random() < 0.7 else list(KINDS))
    pic = draw("dense", index, kind)
    chosen = rng.sample(pic.questions, min(len(pic.questions), 4))
    return turns(shuffled_caption(pic, rng), [ask(q, rng, 0.4) for q in chosen])


def bare_questions(rng: Random, index: int, template: bool) -> Segments:
    """Six questions about one picture told in words, with no word on how to answer: half way from drill to prompt."""
    pic = draw("bare", index, rng.choice(LOOKED_UP if rng.random() < 0.85 else list(KINDS)))
    chosen = [rng.choice(pic.questions) for _ in range(6)]
    caption = shuffled_caption(pic, rng)
    if template:
        return turns(caption, [Asked(q.text, q.answer) for q in chosen])
    segments: Segments = [(BEGIN + caption, False)]
    for question in chosen:
        segments += [(f"\n: {question.text}\n", False), (question.answer, True)]
    return segments


def letter_exercise(rng: Random) -> Segments:
    """A list of options in the template, then look-ups in it: from a word to its letter and back."""
    words = _words(rng, rng.choice((2, 3, 4, 4)), single=rng.random() < 0.5)
    asked: list[Asked] = []
    for k in range(4):
        index = rng.randrange(len(words))
        head = f"Options:\n{listed(words, rng.choice(STYLES))}\n" if k == 0 else ""
        if rng.random() < 0.85:
            asked.append(Asked(f"{head}The answer is {words[index]}.", LETTERS[index]))
        else:
            asked.append(Asked(f"{head}The answer is {LETTERS[index]}.", words[index]))
    return turns("Choose.", asked)


def letter_question(rng: Random, index: int) -> Segments:
    """One question about a picture told in words: mostly first in short, then by letter."""
    pic = draw("letters", index, rng.choice(list(KINDS)))
    pool = [q for q in pic.questions if q.choices[0] not in ("yes", "no")]
    question = rng.choice(pool)
    asked = [letter(question, rng)]
    if rng.random() < 0.6:
        asked.insert(0, short(question, rng))
    return turns(shuffled_caption(pic, rng), asked)


def exercise(rng: Random) -> Segments:
    """One of the look-up exercises."""
    return copy_exercise(rng) if rng.random() < 0.25 else letter_exercise(rng)


def text_probe(task: str, index: int) -> tuple[str, str]:
    """A held-out look-up in words and its answer.

    Tasks: "caption" (a question about a caption, in short), "copy" (repeat three words), "letter" (the letter of an
    option that is told), "choice" (a question about a caption, by letter), "open" (as "caption", yes and no included).
    """
    rng = Random(f"probe/{task}/{index}")
    if task == "copy":
        words = _words(rng, 3)
        segments = turns(" ".join(words), [Asked("Repeat the words.", " ".join(words))])
    elif task == "letter":
        words = _words(rng, 4)
        told = Question("letter", f"The answer is {words[0]}.", words[0], tuple(words), "")
        drawn, right = options(told, rng)
        segments = turns("Choose.", [Asked(f"Options:\n{listed(drawn)}\nThe answer is {words[0]}.", LETTERS[right])])
    else:
        pic = draw("probe", index, rng.choice(list(KINDS)))
        pool = [q for q in pic.questions if q.choices[0] not in ("yes", "no")]
        if task == "open":
            pool = pic.questions
        question = rng.choice(pool)
        asked = letter(question, rng) if task == "choice" else short(question, rng)
        segments = turns(shuffled_caption(pic, rng), [asked])
    (prompt, _), (answer, _) = segments
    return prompt, answer.removesuffix(END)


__all__ = ["LETTERS", "conversation", "copy_exercise", "exercise", "text_probe", "tokenizer_texts", "turns"]
