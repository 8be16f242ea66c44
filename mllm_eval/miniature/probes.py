"""The miniature of the probes' data sets: pictures of the world with their classes, masks and depth maps.

They are written in the layouts of ImageNet, ADE20K and NYUv2, so that the readers of those read them. A picture is a
pure function of the split and its number.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from mllm_eval.locks import made_whole
from mllm_eval.miniature.world.picture import COLORS, INK, SHAPES, polygon, stamp, write
from mllm_eval.storage import data_home, read_text, sha256_bytes, sha256_tree

Progress = Callable[[str, int, int], None]
VERSION = "VERSION"
COLOR_NAMES = tuple(COLORS)
PATTERNS = ("stripes", "checks", "dots")
OTHER, PAPER = 0, 1
"""Values of a mask; shapes follow from 2, then patterns."""
CLASSES = 1 + len(SHAPES) + len(PATTERNS)
IMAGES = {"train": 36, "val": 12}
"""Pictures of each of the 36 classes."""
SCENES = {"training": 160, "validation": 100}
ROOMS = {"train": 160, "test": 100}
ROOM = (160, 120)
"""Width and height of a picture with depth."""


def version() -> str:
    """Changes when the code that draws changes."""
    here = Path(__file__)
    world = sha256_tree(here.parent / "world", lambda path: path.suffix == ".py")
    return sha256_bytes(f"{world} {read_text(here)}".encode())[:16]


def build(home: Path | None = None, progress: Progress | None = None) -> Path:
    """Write `probes/{imagenet,ade20k,nyu}` under `home` (default: `data_home()`) unless it is there; its path."""
    home, told = home or data_home(), progress or (lambda *_: None)
    target = home / "probes"
    with made_whole(target, VERSION, version()) as making:
        if making is not None:
            for done, (name, make) in enumerate((("imagenet", _imagenet), ("ade20k", _ade20k), ("nyu", _nyu)), start=1):
                make(making / name)
                told(name, done, 3)
    return target


def sheet(rng: Random, width: int, height: int) -> Image.Image:
    """A nearly white sheet of any size."""
    red, green, blue = (rng.randint(232, 255) for _ in range(3))
    return Image.new("RGB", (width, height), (red, green, blue))


def mark(pen: ImageDraw.ImageDraw, shape: str, value: int, x: float, y: float, r: float) -> None:
    """Fill the pixels that `stamp` fills with a value."""
    box = (x - r, y - r, x + r, y + r)
    if shape == "circle":
        pen.ellipse(box, fill=value)
    elif shape == "ring":
        pen.ellipse(box, outline=value, width=max(4, round(r * 0.42)))
    else:
        pen.polygon(polygon(shape, x, y, r), fill=value)


def classed(split: str, number: int, color: str, shape: str) -> Image.Image:
    """A picture of a class: one large thing, and up to two small ones of other kinds."""
    rng = Random(f"probe/imagenet/{split}/{color}/{shape}/{number}")
    width, height = rng.randint(112, 150), rng.randint(112, 150)
    image = sheet(rng, width, height)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(0, 2)):
        other = rng.choice([one for one in SHAPES if one != shape])
        stamp(pen, other, rng.choice(COLOR_NAMES), rng.uniform(8, width - 8), rng.uniform(8, height - 8), 7)
    r = rng.uniform(14, 24)
    # As in photographs of a thing, it is seen whole in the middle square.
    edge = r + 0.14 * max(width, height)
    stamp(pen, shape, color, rng.uniform(edge, width - edge), rng.uniform(edge, height - edge), r)
    return image


def scene(split: str, number: int) -> tuple[Image.Image, Image.Image]:
    """A picture, and its mask with the values of `OTHER`, `PAPER`, shapes and patterns."""
    rng = Random(f"probe/ade20k/{split}/{number}")
    width, height = rng.randint(112, 156), rng.randint(112, 156)
    image, mask = sheet(rng, width, height), Image.new("L", (width, height), PAPER)
    pen, pencil = ImageDraw.Draw(image), ImageDraw.Draw(mask)
    for _ in range(rng.randint(0, 2)):
        kind, color = rng.choice(PATTERNS), COLORS[rng.choice(COLOR_NAMES)]
        w, h = rng.randint(36, 60), rng.randint(36, 60)
        x, y = rng.randint(0, width - w), rng.randint(0, height - h)
        image.paste(_patterned(sheet(rng, w, h), kind, color), (x, y))
        pencil.rectangle((x, y, x + w - 1, y + h - 1), fill=2 + len(SHAPES) + PATTERNS.index(kind))
    for _ in range(rng.randint(2, 5)):
        shape, r = rng.choice(SHAPES), rng.uniform(13, 26)
        middle = rng.uniform(r, width - r), rng.uniform(r, height - r)
        stamp(pen, shape, rng.choice(COLOR_NAMES), *middle, r)
        mark(pencil, shape, 2 + SHAPES.index(shape), *middle, r)
    if rng.random() < 0.3:
        # A word is none of the classes.
        x, y = rng.randint(20, width - 20), rng.randint(10, height - 10)
        write(pen, "ABC", x, y, 16)
        pencil.rectangle((x - 18, y - 8, x + 18, y + 8), fill=OTHER)
    return image, mask


def _patterned(tile: Image.Image, kind: str, color: tuple[int, int, int]) -> Image.Image:
    pen, step = ImageDraw.Draw(tile), 16
    for i, x in enumerate(range(0, tile.width, step)):
        if kind == "stripes":
            pen.rectangle((x, 0, x + step // 2, tile.height), fill=color)
            continue
        for j, y in enumerate(range(0, tile.height, step)):
            if kind == "dots":
                pen.ellipse((x, y, x + step // 2, y + step // 2), fill=color)
            elif (i + j) % 2 == 0:
                pen.rectangle((x, y, x + step - 1, y + step - 1), fill=color)
    return tile


def room(split: str, number: int) -> tuple[Image.Image, Image.Image]:
    """A picture of a floor, a wall and things that are smaller and higher up the farther they are, and its depth.

    The depth is of 16 bits in millimetres; 0 where it is not known.
    """
    rng = Random(f"probe/nyu/{split}/{number}")
    width, height = ROOM
    wall, horizon, foot = rng.uniform(5.5, 8.0), rng.randint(38, 50), 1.2
    image, depth = sheet(rng, width, height), np.full((height, width), wall)
    pen = ImageDraw.Draw(image)
    floor: tuple[int, int, int] = tuple(rng.randint(190, 222) for _ in range(3))  # type: ignore[assignment]
    pen.rectangle((0, horizon, width, height), fill=floor)
    pen.line((0, horizon, width, horizon), fill=INK)
    rows = np.arange(horizon, height)
    # Of a flat floor the inverse of the depth falls evenly towards the horizon.
    floors = 1.0 / np.interp(rows, [horizon, height - 1], [1.0 / wall, 1.0 / foot])
    depth[horizon:] = floors[:, None]
    for away in sorted((rng.uniform(1.5, 4.5) for _ in range(rng.randint(2, 4))), reverse=True):
        r = 42.0 / away
        bottom = horizon + int(np.argmin(np.abs(floors - away)))
        x, y = rng.uniform(10, width - 10), bottom - r
        shape = rng.choice([one for one in SHAPES if one != "ring"])
        stamp(pen, shape, rng.choice(COLOR_NAMES), x, y, r, outline=True)
        covered = Image.new("L", ROOM, 0)
        mark(ImageDraw.Draw(covered), shape, 1, x, y, r)
        depth[np.asarray(covered) == 1] = away
    x, y = rng.randint(0, width - 12), rng.randint(0, height - 12)
    depth[y : y + 10, x : x + 10] = 0
    return image, Image.fromarray(np.rint(depth * 1000).astype(np.uint16))


def _imagenet(folder: Path) -> None:
    for split, count in IMAGES.items():
        for color in COLOR_NAMES:
            for shape in SHAPES:
                place = folder / split / f"{color}_{shape}"
                place.mkdir(parents=True)
                for number in range(count):
                    classed(split, number, color, shape).save(place / f"{color}_{shape}_{number:04d}.png")


def _ade20k(folder: Path) -> None:
    for split, count in SCENES.items():
        images, masks = folder / "images" / split, folder / "annotations" / split
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for number in range(count):
            image, mask = scene(split, number)
            image.save(images / f"mini_{split}_{number:08d}.png")
            mask.save(masks / f"mini_{split}_{number:08d}.png")


def _nyu(folder: Path) -> None:
    for split, count in ROOMS.items():
        lines = []
        (folder / split / "room").mkdir(parents=True)
        for number in range(count):
            image, depth = room(split, number)
            names = f"room/rgb_{number:05d}.png", f"room/sync_depth_{number:05d}.png"
            image.save(folder / split / names[0])
            depth.save(folder / split / names[1])
            lines.append(f"{names[0]} {names[1]} 518.8579\n")
        (folder / f"nyu_{split}.txt").write_text("".join(lines))
