"""How a question of the world is put to a model: the prompt forms of the 16 benchmarks.

A form is a prompt as the benchmark words it, so that training data speak as Cambrian's own data do.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from mllm_eval.miniature.world.picture import Question

WORD = "Answer the question using a single word or phrase."
NUMBER = "Answer the question using a single number or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
ONLY_LETTER = "Please answer directly with only the letter of the correct option and nothing else."
ONLY_WORD = "Please answer directly with a single word or number."
SHORT = "Give the short answer directly."
REASON = "First show your reasoning process and then give the final answer."
MATH_CHOICE = "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end."
MATH_FREE = (
    "Hint: Please answer the question requiring an integer answer "
    "and provide the final value, e.g., 1, 2, 3, at the end."
)
LETTERS = "ABCD"


class Asked(NamedTuple):
    """A prompt (user text without image) and the answer that a model should give."""

    prompt: str
    answer: str


def options(question: Question, rng: Random, n: int = 4) -> tuple[list[str], int]:
    """Draws `n` options in random order (fewer if the question has fewer) and the index of the right one."""
    wrong = list(question.choices[1:])
    drawn = [question.answer, *rng.sample(wrong, min(n - 1, len(wrong)))]
    rng.shuffle(drawn)
    return drawn, drawn.index(question.answer)


def listed(drawn: list[str], style: str = "{}. {}", joint: str = "\n") -> str:
    """Options with their letters."""
    return joint.join(style.format(letter, text) for letter, text in zip(LETTERS, drawn, strict=False))


def short(question: Question, rng: Random) -> Asked:
    """A word or phrase, with one of the short-answer suffixes."""
    if question.choices[0] in ("yes", "no") and rng.random() < 0.5:
        return Asked(f"{question.text} Please answer yes or no.\n{WORD}", question.answer.capitalize())
    suffix = rng.choice((WORD, WORD, SHORT, NUMBER))
    if rng.random() < 0.1:
        return Asked(f"{question.text} {ONLY_WORD}", question.answer)
    if question.answer.isdigit() and rng.random() < 0.1:
        return Asked(f"{MATH_FREE}\nQuestion: {question.text}\n{WORD}", question.answer)
    return Asked(f"{question.text}\n{suffix}", question.answer)


def letter(question: Question, rng: Random) -> Asked:
    """The letter of an option, in one of the benchmarks' ways to list options."""
    drawn, right = options(question, rng)
    style = rng.randrange(6)
    if style <= 1:
        prompt = f"{question.text} Options:\n{listed(drawn)}\n{LETTER}"
    elif style == 2:
        prompt = f"{question.text}\n{listed(drawn)}\n{LETTER}"
    elif style == 3:
        prompt = f"{question.text}\n{listed(drawn)}\n{ONLY_LETTER}"
    elif style == 4:
        prompt = f"{question.text} Select from the following choices.\n{listed(drawn, '({}) {}')}\n{LETTER}"
    else:
        prompt = f"{MATH_CHOICE}\nQuestion: {question.text}\nChoices:\n{listed(drawn, '({}) {}')}\n{REASON}"
    return Asked(prompt, LETTERS[right])


def ask(question: Question, rng: Random, letters: float = 0.45) -> Asked:
    """One of the forms at random; questions with fewer than two choices have no letters."""
    form: Callable[[Question, Random], Asked] = short
    if question.choices[0] not in ("yes", "no") and rng.random() < letters:
        form = letter
    return form(question, rng)
