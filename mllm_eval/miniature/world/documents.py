"""Pictures of documents: bar charts with an axis, price tables and receipts, forms."""

from __future__ import annotations

from random import Random

from PIL import ImageDraw

from mllm_eval.miniature.world.picture import COLORS, INK, SIZE, Picture, jitter, paper, write

COLOR_NAMES = tuple(COLORS)
DIGITS = tuple(str(n) for n in range(1, 10))
YES_NO = ("yes", "no")
ITEMS = ("TEA", "JAM", "EGG", "NUT", "ICE", "PIE", "HAM", "FIG")
FIELDS = {
    "NAME": ("SAM", "EVA", "TOM", "AMY", "BEN", "IDA"),
    "CITY": ("ROM", "OSLO", "LIMA", "BONN", "PISA", "CORK"),
    "ROOM": DIGITS,
}


def chart(rng: Random, swap: bool = False) -> Picture:
    """Three or four coloured bars over an axis, each with its value on top; `swap` exchanges the first two values."""
    pic = Picture("chart", paper(rng))
    pen = ImageDraw.Draw(pic.image)
    n = rng.choice((3, 3, 4))
    colors, values = rng.sample(COLOR_NAMES, n), rng.sample(range(1, 10), n)
    if swap:
        values[:2] = values[1::-1]
    base, left = 104 + jitter(rng, 1), 8 + jitter(rng, 1)
    pen.line((left, 6, left, base), fill=INK, width=2)
    pen.line((left, base, SIZE - 2, base), fill=INK, width=2)
    for tick in range(0, 10, 3):
        y = base - tick * 8.4
        pen.line((left - 4, y, left, y), fill=INK, width=1)
    step = 25 if n == 4 else 33
    for k, (color, value) in enumerate(zip(colors, values, strict=True)):
        x = left + 4 + step * k
        top = base - value * 8.4
        pen.rectangle((x, top, x + step - 8, base - 2), fill=COLORS[color])
        write(pen, str(value), x + (step - 8) / 2, top - 11, 20)
        pic.marks.append((x + 9, 60, f"{color} {value}"))
    pic.facts = {"colors": colors, "values": values}
    fact = pic.say("A bar chart: " + ", ".join(f"{c} {v}" for c, v in zip(colors, values, strict=True)) + ".")
    high, low = colors[values.index(max(values))], colors[values.index(min(values))]
    extremes = pic.say(f"The tallest bar is {high} and the shortest bar is {low}.")
    for color, value in zip(colors, values, strict=True):
        pic.ask("bar_value", f"What is the value of the {color} bar?", str(value), DIGITS, fact)
    pic.ask("bar_max", "Which color is the tallest bar?", high, tuple(colors), extremes)
    pic.ask("bar_min", "Which color is the shortest bar?", low, tuple(colors), extremes)
    pic.ask("bar_count", "How many bars are there?", str(n), ("2", "3", "4", "5"), fact)
    a, b = rng.sample(range(n), 2)
    answer = "yes" if values[a] > values[b] else "no"
    pic.ask("bar_yes", f"Is the {colors[a]} bar taller than the {colors[b]} bar?", answer, YES_NO, fact)
    return pic


def table(rng: Random) -> Picture:
    """A receipt of three lines: an item and its price."""
    pic = Picture("table", paper(rng))
    pen = ImageDraw.Draw(pic.image)
    items, prices = rng.sample(ITEMS, 3), [str(p) for p in rng.sample(range(1, 10), 3)]
    dx, dy = jitter(rng, 1), jitter(rng, 1)
    for k in range(3):
        y = 20 + 36 * k + dy
        write(pen, items[k], 6 + dx, y, 28, anchor="lm")
        write(pen, prices[k], 96 + dx, y, 28)
        pic.marks += [(30, y, items[k]), (96, y, prices[k])]
        if k:
            pen.line((4, y - 18, SIZE - 4, y - 18), fill=(150, 150, 150), width=1)
    pic.facts = {"items": items, "prices": prices}
    fact = pic.say("A receipt: " + ", ".join(f"{i} {p}" for i, p in zip(items, prices, strict=True)) + ".")
    for item, price in zip(items, prices, strict=True):
        pic.ask("price", f"What is the price of {item}?", price, DIGITS, fact)
        pic.ask("item", f"Which item costs {price}?", item, (*items, *ITEMS), fact)
    absent = rng.choice([i for i in ITEMS if i not in items])
    asked, answer = (rng.choice(items), "yes") if rng.random() < 0.5 else (absent, "no")
    pic.ask("item_yes", f"Is {asked} on the receipt?", answer, YES_NO, fact)
    return pic


def form(rng: Random) -> Picture:
    """A form with three filled fields, one below the other; narrower than high."""
    pic = Picture("form", paper(rng))
    pen = ImageDraw.Draw(pic.image)
    filled = {key: rng.choice(values) for key, values in FIELDS.items()}
    dx, dy = jitter(rng, 1), jitter(rng, 1)
    for k, (key, value) in enumerate(filled.items()):
        y = 20 + 36 * k + dy
        write(pen, key, 3 + dx, y - 12, 11, fill=(90, 90, 90), anchor="lm")
        write(pen, value, 12 + dx, y + 5, 25, anchor="lm")
        pen.line((10, y + 18, 92, y + 18), fill=INK, width=1)
        pic.marks.append((40, y, f"{key} {value}"))
    pic.image = pic.image.crop((0, 0, 98, SIZE))
    pic.facts = dict(filled)
    fact = pic.say("A form: " + ", ".join(f"{k} {v}" for k, v in filled.items()) + ".")
    pic.ask("field_name", "What is the name on the form?", filled["NAME"], FIELDS["NAME"], fact)
    pic.ask("field_city", "What is the city on the form?", filled["CITY"], FIELDS["CITY"], fact)
    pic.ask("field_room", "What is the room number?", filled["ROOM"], DIGITS, fact)
    return pic
