"""What a picture of the miniature's world is, and the few strokes that all kinds share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from random import Random

from PIL import Image, ImageDraw, ImageFont

SIZE = 112
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 205, 30),
    "purple": (150, 50, 180),
    "orange": (245, 130, 20),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
INK = (25, 25, 25)


@dataclass(frozen=True, slots=True)
class Question:
    """A question whose answer stands in the picture.

    `family` names what must be seen; `choices` holds the answer and every wrong answer of the same type;
    `pair` are the two candidates that the question itself names, if it does.
    """

    family: str
    text: str
    answer: str
    choices: tuple[str, ...]
    evidence: str
    pair: tuple[str, ...] = ()


@dataclass(slots=True)
class Picture:
    """An image with what is true of it: sentences, words at places (x, y in pixels), and questions."""

    kind: str
    image: Image.Image
    sentences: list[str] = field(default_factory=list)
    marks: list[tuple[float, float, str]] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)

    def say(self, sentence: str) -> str:
        """Adds a sentence to the caption and gives it back, to serve as a question's evidence."""
        if sentence not in self.sentences:
            self.sentences.append(sentence)
        return sentence

    def ask(
        self,
        family: str,
        text: str,
        answer: str,
        choices: tuple[str, ...],
        evidence: str,
        pair: tuple[str, ...] = (),
    ) -> None:
        """Adds a question; the answer is always among the choices."""
        rest = tuple(c for c in dict.fromkeys(choices) if c != answer)
        self.questions.append(Question(family, text, answer, (answer, *rest), evidence, pair))

    @property
    def caption(self) -> str:
        """All sentences, in the order in which they were said."""
        return " ".join(self.sentences)

    def layout(self, cells: int = 4) -> str:
        """The words of the picture in raster order, `cells` x `cells` places, "." where nothing is.

        A caption that keeps places: it is the text nearest to what a grid of visual tokens is.
        """
        grid: list[list[list[str]]] = [[[] for _ in range(cells)] for _ in range(cells)]
        for x, y, words in self.marks:
            row = min(cells - 1, max(0, int(y * cells / SIZE)))
            col = min(cells - 1, max(0, int(x * cells / SIZE)))
            grid[row][col].append(words)
        return " |".join("".join(" " + " ".join(c) if c else " ." for c in row) for row in grid).strip()


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, so that no system font is needed and every machine draws the same pixels."""
    loaded = ImageFont.load_default(size)
    assert isinstance(loaded, ImageFont.FreeTypeFont)
    return loaded


def paper(rng: Random) -> Image.Image:
    """A nearly white sheet with a slight tint."""
    tint = tuple(rng.randint(232, 255) for _ in range(3))
    return Image.new("RGB", (SIZE, SIZE), tint)  # type: ignore[arg-type]


def polygon(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """Corners of a shape of radius `r` around (x, y); circle and ring have none."""
    if shape == "square":
        s = r * 0.86
        return [(x - s, y - s), (x + s, y - s), (x + s, y + s), (x - s, y + s)]
    if shape == "triangle":
        return [(x, y - r), (x + r, y + r * 0.8), (x - r, y + r * 0.8)]
    if shape == "star":
        return [
            (
                x + (r * 1.1 if k % 2 == 0 else r * 0.45) * math.sin(k * math.pi / 5),
                y - (r * 1.1 if k % 2 == 0 else r * 0.45) * math.cos(k * math.pi / 5),
            )
            for k in range(10)
        ]
    a, b = r, r * 0.34
    return [
        (x - b, y - a),
        (x + b, y - a),
        (x + b, y - b),
        (x + a, y - b),
        (x + a, y + b),
        (x + b, y + b),
        (x + b, y + a),
        (x - b, y + a),
        (x - b, y + b),
        (x - a, y + b),
        (x - a, y - b),
        (x - b, y - b),
    ]


def stamp(
    pen: ImageDraw.ImageDraw, shape: str, color: str, x: float, y: float, r: float, outline: bool = False
) -> None:
    """Draws one filled shape."""
    rgb = COLORS[color]
    edge = INK if outline else None
    box = (x - r, y - r, x + r, y + r)
    if shape == "circle":
        pen.ellipse(box, fill=rgb, outline=edge)
    elif shape == "ring":
        pen.ellipse(box, outline=rgb, width=max(4, round(r * 0.42)))
    else:
        pen.polygon(polygon(shape, x, y, r), fill=rgb, outline=edge)


def write(
    pen: ImageDraw.ImageDraw,
    text: str,
    x: float,
    y: float,
    size: int,
    fill: tuple[int, int, int] = INK,
    anchor: str = "mm",
) -> None:
    """Writes text with its `anchor` (Pillow's two letters) at (x, y); `size` in pixels."""
    pen.text((x, y), text, font=font(size), fill=fill, anchor=anchor)


def jitter(rng: Random, reach: float) -> float:
    """A shift in pixels, uniform in [-reach, reach]."""
    return rng.uniform(-reach, reach)
