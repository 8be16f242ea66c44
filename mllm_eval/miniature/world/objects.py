"""Pictures of coloured shapes: scenes, depth, distance, patterns and labelled diagrams."""

from __future__ import annotations

from random import Random

from PIL import ImageDraw

from mllm_eval.miniature.world.picture import COLORS, INK, SHAPES, SIZE, Picture, jitter, paper, stamp, write

COLOR_NAMES = tuple(COLORS)
NUMBERS = tuple(str(n) for n in range(1, 7))
YES_NO = ("yes", "no")
PATTERNS = ("stripes", "dots", "checks", "waves")
LABELS = ("P", "R", "S", "T", "W", "X")
CELL = 37


def scene(rng: Random, count: int | None = None, things: list[tuple[str, str]] | None = None) -> Picture:
    """One to six shapes on a loose 3 x 3 grid: count, colour, shape, existence, relation.

    `things` stand where the drawn ones, as many, would have stood.
    """
    n = count or rng.choice((1, 2, 2, 3, 3, 4, 4, 5, 6))
    cells = rng.sample(range(9), n)
    kinds = [(c, s) for c in COLOR_NAMES for s in SHAPES]
    drawn = rng.sample(kinds, n) if rng.random() < 0.6 else _repeated(rng, n)
    things = things or drawn
    pic = Picture("scene", paper(rng))
    pen = ImageDraw.Draw(pic.image)
    places: list[tuple[int, int]] = []
    for cell, (color, shape) in zip(cells, things, strict=True):
        row, col = divmod(cell, 3)
        x, y = CELL * col + 19 + jitter(rng, 3), CELL * row + 19 + jitter(rng, 3)
        stamp(pen, shape, color, x, y, rng.uniform(13, 16))
        pic.marks.append((x, y, f"{color} {shape}"))
        places.append((row, col))
    pic.facts = {"things": things, "places": places}
    objects = "object" if n == 1 else "objects"
    total = pic.say(f"There are {n} {objects}." if n > 1 else "There is 1 object.")
    listed = pic.say("I see a " + ", a ".join(f"{c} {s}" for c, s in things) + ".")
    pic.ask("count", "How many objects are in the image?", str(n), NUMBERS, total)
    _ask_about_things(rng, pic, things, listed)
    _ask_about_places(rng, pic, things, places)
    return pic


def _repeated(rng: Random, n: int) -> list[tuple[str, str]]:
    """Things that share a colour, so that counting by colour needs more than one."""
    color = rng.choice(COLOR_NAMES)
    k = rng.randint(1, n)
    shapes = rng.sample(SHAPES, min(k, len(SHAPES)))
    things = [(color, s) for s in shapes]
    others = [(c, s) for c in COLOR_NAMES if c != color for s in SHAPES]
    things += rng.sample(others, n - len(things))
    rng.shuffle(things)
    return things


def _ask_about_things(rng: Random, pic: Picture, things: list[tuple[str, str]], listed: str) -> None:
    colors, shapes = [c for c, _ in things], [s for _, s in things]
    for color in dict.fromkeys(colors):
        if colors.count(color) > 1 or rng.random() < 0.3:
            pic.ask(
                "count_color",
                f"How many {color} objects are there?",
                str(colors.count(color)),
                NUMBERS[:5],
                listed,
            )
    for color, shape in things:
        if shapes.count(shape) == 1:
            pic.ask("color", f"What color is the {shape}?", color, COLOR_NAMES, listed)
        if colors.count(color) == 1:
            pic.ask("shape", f"What shape is the {color} object?", shape, SHAPES, listed)
    color, shape = rng.choice(things)
    pic.ask("exist", f"Is there a {color} {shape} in the image?", "yes", YES_NO, listed)
    near = [(c, s) for c in dict.fromkeys(colors) for s in SHAPES if (c, s) not in things]
    near += [(c, s) for s in dict.fromkeys(shapes) for c in COLOR_NAMES if (c, s) not in things]
    color, shape = rng.choice(near)
    pic.ask("exist", f"Is there a {color} {shape} in the image?", "no", YES_NO, listed)


def _ask_about_places(rng: Random, pic: Picture, things: list[tuple[str, str]], places: list[tuple[int, int]]) -> None:
    pairs = [(i, j) for i in range(len(things)) for j in range(len(things)) if i != j]
    rng.shuffle(pairs)
    for i, j in pairs[:2]:
        (r1, c1), (r2, c2) = places[i], places[j]
        a, b = (" ".join(things[i]), " ".join(things[j]))
        if c1 != c2 and (r1 == r2 or rng.random() < 0.5):
            side, other = ("left of", "right of") if c1 < c2 else ("right of", "left of")
        elif r1 != r2:
            side, other = ("above", "below") if r1 < r2 else ("below", "above")
        else:
            continue
        fact = pic.say(f"The {a} is {side} the {b}.")
        pic.ask("relation", f"Where is the {a} compared to the {b}?", side, (side, other), fact)
        asked, answer = (side, "yes") if rng.random() < 0.5 else (other, "no")
        pic.ask("relation_yes", f"Is the {a} {asked} the {b}?", answer, YES_NO, fact)


def depth(rng: Random, swap: bool = False) -> Picture:
    """Two shapes, the near one larger and lower, and hiding a part of the far one."""
    pic = Picture("depth", paper(rng))
    pen = ImageDraw.Draw(pic.image)
    far_color, near_color = rng.sample(COLOR_NAMES, 2)
    far_shape, near_shape = rng.sample([s for s in SHAPES if s != "ring"], 2)
    if swap:
        (far_color, far_shape), (near_color, near_shape) = (near_color, near_shape), (far_color, far_shape)
    side = rng.choice((-1, 1))
    fx, fy = 56 + side * (22 + jitter(rng, 4)), 38 + jitter(rng, 5)
    nx, ny = 56 - side * (13 + jitter(rng, 4)), 66 + jitter(rng, 5)
    far_r, near_r = rng.uniform(18, 22), rng.uniform(29, 33)
    stamp(pen, far_shape, far_color, fx, fy, far_r, outline=True)
    stamp(pen, near_shape, near_color, nx, ny, near_r, outline=True)
    near, far = f"{near_color} {near_shape}", f"{far_color} {far_shape}"
    pic.marks += [(fx, fy, f"far {far}"), (nx, ny, f"near {near}")]
    pic.facts = {
        "near": (near_color, near_shape),
        "far": (far_color, far_shape),
        "boxes": {"near": (nx, ny, near_r), "far": (fx, fy, far_r)},
    }
    fact = pic.say(f"The {near} is in front of the {far}.")
    first, second = (near, far) if rng.random() < 0.5 else (far, near)
    pic.ask(
        "depth",
        f"Which object is closer to the camera, the {first} or the {second}?",
        near,
        (near, far),
        fact,
        pair=(first, second),
    )
    pic.ask("front_color", "What color is the object in front?", near_color, COLOR_NAMES, fact)
    pic.ask("front_shape", "What shape is the object in front?", near_shape, SHAPES[:5], fact)
    asked, answer = ((near, far), "yes") if rng.random() < 0.5 else ((far, near), "no")
    pic.ask("front_yes", f"Is the {asked[0]} in front of the {asked[1]}?", answer, YES_NO, fact)
    return pic


def distance(rng: Random, swap: bool = False) -> Picture:
    """A reference shape and two others at clearly different distances from it; `swap` exchanges these two."""
    pic = Picture("distance", paper(rng))
    pen = ImageDraw.Draw(pic.image)
    colors, shapes = rng.sample(COLOR_NAMES, 3), rng.sample(SHAPES, 3)
    if swap:
        colors[1:], shapes[1:] = colors[:0:-1], shapes[:0:-1]
    names = [f"{c} {s}" for c, s in zip(colors, shapes, strict=True)]
    flip_x, flip_y, turn = rng.random() < 0.5, rng.random() < 0.5, rng.random() < 0.5
    spots = [
        (20 + jitter(rng, 3), 20 + jitter(rng, 3)),
        (54 + jitter(rng, 3), 22 + jitter(rng, 3)),
        (92 + jitter(rng, 3), 88 + jitter(rng, 5)),
    ]
    placed = []
    for x, y in spots:
        x, y = (SIZE - x if flip_x else x), (SIZE - y if flip_y else y)
        placed.append((y, x) if turn else (x, y))
    for (x, y), color, shape in zip(placed, colors, shapes, strict=True):
        stamp(pen, shape, color, x, y, 13.5)
        pic.marks.append((x, y, f"{color} {shape}"))
    reference, near, far = names
    pic.facts = {
        "reference": (colors[0], shapes[0]),
        "near": (colors[1], shapes[1]),
        "far": (colors[2], shapes[2]),
        "places": placed,
    }
    fact = pic.say(f"The {near} is closer to the {reference} than the {far}.")
    first, second = (near, far) if rng.random() < 0.5 else (far, near)
    pic.ask(
        "distance",
        f"Which object is closer to the {reference}, the {first} or the {second}?",
        near,
        (near, far),
        fact,
        pair=(first, second),
    )
    return pic


def pattern(rng: Random) -> Picture:
    """A sheet of stripes, dots, checks or waves in one colour."""
    pic = Picture("pattern", paper(rng))
    pen = ImageDraw.Draw(pic.image)
    kind, color = rng.choice(PATTERNS), rng.choice(COLOR_NAMES)
    rgb, step, shift = COLORS[color], rng.choice((16, 19, 22)), rng.randint(0, 10)
    spans = range(-step + shift, SIZE + step, step)
    if kind == "stripes":
        for x in spans:
            pen.rectangle((x, 0, x + step // 2, SIZE), fill=rgb)
    elif kind == "dots":
        for x in spans:
            for y in spans:
                pen.ellipse((x, y, x + step // 2, y + step // 2), fill=rgb)
    elif kind == "checks":
        for i, x in enumerate(spans):
            for j, y in enumerate(spans):
                if (i + j) % 2 == 0:
                    pen.rectangle((x, y, x + step - 1, y + step - 1), fill=rgb)
    else:
        for y in spans:
            zigzag = [(x, y + (6 if i % 2 else -6)) for i, x in enumerate(range(-10, SIZE + 12, 10))]
            pen.line(zigzag, fill=rgb, width=5)
    pic.marks.append((56, 56, f"{color} {kind}"))
    pic.facts = {"pattern": kind, "color": color}
    fact = pic.say(f"A pattern of {color} {kind}.")
    pic.ask("pattern", "What pattern is shown?", kind, PATTERNS, fact)
    pic.ask("pattern_color", f"What color are the {kind}?", color, COLOR_NAMES, fact)
    other = rng.choice([p for p in PATTERNS if p != kind])
    asked, answer = (kind, "yes") if rng.random() < 0.5 else (other, "no")
    pic.ask("pattern_yes", f"Does the image show {asked}?", answer, YES_NO, fact)
    return pic


def diagram(rng: Random) -> Picture:
    """Four parts around a centre, each joined to its label."""
    pic = Picture("diagram", paper(rng))
    pen = ImageDraw.Draw(pic.image)
    shapes, labels = rng.sample(SHAPES, 4), rng.sample(LABELS, 4)
    color = rng.choice(COLOR_NAMES)
    said = []
    for k, (shape, label) in enumerate(zip(shapes, labels, strict=True)):
        row, col = divmod(k, 2)
        x, y = 17 + 54 * col + jitter(rng, 1), 29 + 54 * row + jitter(rng, 1)
        pen.line((x, y, x + 20, y), fill=INK, width=1)
        stamp(pen, shape, color, x, y, 14)
        write(pen, label, x + 29, y, 26)
        pic.marks += [(x, y, f"{color} {shape}"), (x + 29, y, label)]
        said.append(f"{label} {shape}")
    pic.facts = {"shapes": shapes, "labels": labels}
    fact = pic.say("A diagram with labels: " + ", ".join(said) + ".")
    for shape, label in zip(shapes, labels, strict=True):
        pic.ask("label_shape", f"Which shape is labeled {label}?", shape, tuple(shapes), fact)
        pic.ask("shape_label", f"What is the label of the {shape}?", label, tuple(labels), fact)
    return pic
