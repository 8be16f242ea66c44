"""Pictures of print: signs with words, house numbers, small maths figures."""

from __future__ import annotations

from random import Random

from PIL import ImageDraw

from mllm_eval.miniature.world.picture import COLORS, INK, SIZE, Picture, jitter, paper, write

COLOR_NAMES = tuple(COLORS)
YES_NO = ("yes", "no")
WORDS = (
    "CAT",
    "DOG",
    "SUN",
    "BUS",
    "TEA",
    "MAP",
    "BED",
    "CUP",
    "FOX",
    "HAT",
    "JAM",
    "KEY",
    "LEG",
    "NUT",
    "OAK",
    "PEN",
    "RAT",
    "SKY",
    "TOY",
    "VAN",
    "WEB",
    "ZOO",
    "ICE",
    "EGG",
)
DIGITS = tuple(str(n) for n in range(10))


def two_digits(rng: Random) -> str:
    """A number from 10 to 99 as text."""
    return str(rng.randint(10, 99))


def near_numbers(number: str) -> tuple[str, ...]:
    """Wrong numbers that share a digit with the right one, so that both digits must be read."""
    a, b = number[0], number[1]
    swaps = [f"{d}{b}" for d in "123456789" if d != a] + [f"{a}{d}" for d in DIGITS if d != b]
    return (number, *swaps)


def sign(rng: Random, word: str | None = None) -> Picture:
    """One word on a coloured plate; `word` stands in the place of the drawn one."""
    pic = Picture("sign", paper(rng))
    pen = ImageDraw.Draw(pic.image)
    drawn, color = rng.choice(WORDS), rng.choice(COLOR_NAMES)
    word = word or drawn
    x, y = 56 + jitter(rng, 4), 56 + jitter(rng, 8)
    pen.rounded_rectangle((x - 50, y - 26, x + 50, y + 26), 6, fill=COLORS[color])
    pen.rounded_rectangle((x - 45, y - 21, x + 45, y + 21), 4, fill=(255, 255, 255))
    write(pen, word, x, y, 38)
    pic.marks.append((x, y, f"{color} sign {word}"))
    pic.facts = {"word": word, "color": color}
    fact = pic.say(f"A {color} sign says {word}.")
    pic.ask("word", "What is written in the image?", word, WORDS, fact)
    pic.ask("word", "What word is on the sign?", word, WORDS, fact)
    pic.ask("sign_color", "What color is the sign?", color, COLOR_NAMES, fact)
    other = rng.choice([w for w in WORDS if w != word])
    asked, answer = (word, "yes") if rng.random() < 0.5 else (other, "no")
    pic.ask("word_yes", f"Does the sign say {asked}?", answer, YES_NO, fact)
    return pic


def signs(rng: Random) -> Picture:
    """Two words, one above the other, on plates of different colours."""
    pic = Picture("signs", paper(rng))
    pen = ImageDraw.Draw(pic.image)
    words, colors = rng.sample(WORDS, 2), rng.sample(COLOR_NAMES, 2)
    parts = []
    for k in range(2):
        x, y = 56 + jitter(rng, 3), 29 + 54 * k + jitter(rng, 2)
        pen.rectangle((x - 50, y - 23, x + 50, y + 23), fill=COLORS[colors[k]])
        pen.rectangle((x - 45, y - 18, x + 45, y + 18), fill=(255, 255, 255))
        write(pen, words[k], x, y, 34)
        pic.marks.append((x, y, f"{colors[k]} sign {words[k]}"))
        parts.append(f"a {colors[k]} sign says {words[k]}")
    pic.facts = {"words": words, "colors": colors}
    fact = pic.say("At the top " + parts[0] + ", at the bottom " + parts[1] + ".")
    for k, place in enumerate(("top", "bottom")):
        pic.ask("signs_color", f"What word is on the {colors[k]} sign?", words[k], (*words, *WORDS), fact)
        pic.ask("signs_place", f"What word is at the {place}?", words[k], (*words, *WORDS), fact)
        pic.ask(
            "word_color",
            f"What color is the sign that says {words[k]}?",
            colors[k],
            (*colors, *COLOR_NAMES),
            fact,
        )
    return pic


def number(rng: Random) -> Picture:
    """A number of two digits on a plate."""
    pic = Picture("number", paper(rng))
    pen = ImageDraw.Draw(pic.image)
    text, color = two_digits(rng), rng.choice(COLOR_NAMES)
    x, y = 56 + jitter(rng, 2), 56 + jitter(rng, 4)
    write(pen, text, x, y, 58, fill=COLORS[color] if rng.random() < 0.5 else INK)
    pic.marks += [(x - 17, y, text[0]), (x + 17, y, text[1])]
    pic.facts = {"number": text}
    fact = pic.say(f"The number is {text}.")
    pic.ask("number", "What number is shown?", text, near_numbers(text), fact)
    pic.ask("number", "What is the number in the image?", text, near_numbers(text), fact)
    asked, answer = (text, "yes") if rng.random() < 0.5 else (rng.choice(near_numbers(text)[1:]), "no")
    pic.ask("number_yes", f"Is the number {asked}?", answer, YES_NO, fact)
    return pic


def figure(rng: Random) -> Picture:
    """A small maths figure: a sum, a rectangle with its sides, or a shaded fraction."""
    return rng.choice((_sum, _rectangle, _fraction))(rng)


def _sum(rng: Random) -> Picture:
    pic = Picture("figure", paper(rng))
    pen = ImageDraw.Draw(pic.image)
    a, b = rng.randint(1, 5), rng.randint(1, 4)
    dx, dy = jitter(rng, 1), jitter(rng, 2)
    for k, text in enumerate((str(a), "+", str(b))):
        write(pen, text, 22 + 34 * k + dx, 56 + dy, 46)
        pic.marks.append((22 + 34 * k, 56, text))
    pic.facts = {"figure": "sum", "a": a, "b": b}
    fact = pic.say(f"The sum is {a} + {b} = {a + b}.")
    pic.ask("sum", "What is the sum of the two numbers?", str(a + b), DIGITS, fact)
    pic.ask("operand", "What is the first number?", str(a), DIGITS[1:], fact)
    shown, answer = (a + b, "yes") if rng.random() < 0.5 else (a + b + rng.choice((-1, 1)), "no")
    pic.ask("sum_yes", f"Is the sum {shown}?", answer, YES_NO, fact)
    return pic


def _rectangle(rng: Random) -> Picture:
    pic = Picture("figure", paper(rng))
    pen = ImageDraw.Draw(pic.image)
    wide, high = rng.sample(range(2, 10), 2)
    dx, dy = jitter(rng, 1), jitter(rng, 1)
    pen.rectangle((12 + dx, 46 + dy, 70 + dx, 98 + dy), outline=INK, width=3)
    write(pen, str(wide), 41 + dx, 24 + dy, 34)
    write(pen, str(high), 92 + dx, 72 + dy, 34)
    pic.marks += [(41, 24, str(wide)), (92, 72, str(high)), (41, 72, "rectangle")]
    pic.facts = {"figure": "rectangle", "wide": wide, "high": high}
    fact = pic.say(f"A rectangle with width {wide} and height {high}.")
    pic.ask("width", "What is the width of the rectangle?", str(wide), DIGITS[1:], fact)
    pic.ask("height", "What is the height of the rectangle?", str(high), DIGITS[1:], fact)
    return pic


def _fraction(rng: Random) -> Picture:
    pic = Picture("figure", paper(rng))
    pen = ImageDraw.Draw(pic.image)
    parts, color = rng.randint(0, 4), rng.choice(COLOR_NAMES)
    box = (16 + jitter(rng, 2), 16 + jitter(rng, 2), 96 + jitter(rng, 2), 96 + jitter(rng, 2))
    shaded = set(rng.sample(range(4), parts))
    for k in range(4):
        fill = COLORS[color] if k in shaded else (255, 255, 255)
        pen.pieslice(box, 90 * k, 90 * k + 90, fill=fill, outline=INK, width=2)
    pic.marks.append((SIZE / 2, SIZE / 2, f"{parts} {color} parts"))
    pic.facts = {"figure": "fraction", "parts": parts, "color": color}
    fact = pic.say(
        f"In the circle {parts} of 4 parts are {color}." if parts else "In the circle 0 of 4 parts are shaded."
    )
    pic.ask("fraction", "How many parts of the circle are shaded?", str(parts), DIGITS[:5], fact)
    return pic
