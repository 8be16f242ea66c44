"""What `data` says of the images of a training set: kinds, faults, and how much of it is looked at."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_benchmark import command
from PIL import Image

from mllm_eval.catalog.recipe import ConversationData
from mllm_eval.data import trainingimages
from mllm_eval.data.trainingimages import training_survey
from mllm_eval.decoding import ORIENTATION, Decoding
from mllm_eval.errors import UserError


def saved(path: Path, image: Image.Image, **how: Any) -> str:
    image.save(path, **how)
    return path.name


def rows_of(folder: Path, names: list[str | None]) -> ConversationData:
    """A training set with a row for each image name, None for text alone."""
    turns = [{"from": "gpt", "value": "red"}]
    lines = []
    for number, name in enumerate(names):
        asked = {"from": "human", "value": "<image>\nColour?" if name else "Colour?"}
        lines.append({"id": str(number), "conversations": [asked, *turns], **({"image": name} if name else {})})
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ConversationData(path=str(path), images=str(folder))


def test_kinds_of_training_images_are_counted_and_what_is_made_of_them_is_said(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    plain = Image.new("RGB", (8, 4), (1, 2, 3))
    opaque, clear = Image.new("RGBA", (4, 4), (1, 2, 3, 255)), Image.new("RGBA", (4, 4), (1, 2, 3, 9))
    deep = Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000)
    names = [
        saved(tmp_path / "plain.png", plain), saved(tmp_path / "tagged.jpg", plain, exif=turned),
        saved(tmp_path / "opaque.png", opaque), saved(tmp_path / "clear.png", clear),
        saved(tmp_path / "deep.png", deep), saved(tmp_path / "palette.gif", plain.convert("P"), transparency=0),
    ]  # fmt: skip
    data = rows_of(tmp_path, [*names, "plain.png", None])
    found = training_survey(data, Decoding())
    assert (found.of, found.rows, found.images, found.broken) == (8, 8, 6, [])
    assert found.kinds == {"tagged": ["tagged.jpg"], "deep": ["deep.png"], "clear": ["clear.png", "palette.gif"]}
    assert found.sentence() == (
        "6 images, 1 with an orientation tag (turned; tagged.jpg), 1 of 16- or 32-bit grey (scaled to 8; deep.png), "
        "2 transparent (alpha dropped; clear.png, palette.gif)"
    )
    other = training_survey(data, Decoding(upright=False, background="#ffffff")).sentence()
    assert "(not turned; tagged.jpg)" in other and "(laid on #ffffff; clear.png, palette.gif)" in other


def test_what_cannot_be_read_is_named_with_its_row(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 9, 9)).save(data, "PNG")
    (tmp_path / "cut.png").write_bytes(data.getvalue()[:60])
    chosen = rows_of(tmp_path, ["cut.png", "absent.png"])
    with open(chosen.path, "a") as file:
        file.write("{broken\n")
    found = training_survey(chosen, Decoding())
    assert [reason.split(": ")[0] for reason in found.broken] == [
        f"{chosen.path}:3", f"{chosen.path}:1, {tmp_path / 'cut.png'}", f"{chosen.path}:2, {tmp_path / 'absent.png'}",
    ]  # fmt: skip
    assert "3 images or rows that can't be read" in found.sentence()
    assert found.fault(3) == ""
    assert found.fault(2).startswith("train.jsonl: 3 images or rows can't be read, in 3 rows: ")
    assert "is not JSON" in found.fault(2) and "`skip_broken`" in found.fault(2)


def test_rows_that_the_recipe_excludes_are_not_looked_at(tmp_path: Path) -> None:
    data = rows_of(tmp_path, ["laion/absent.png", None])
    assert len(training_survey(data, Decoding()).broken) == 1
    left = training_survey(data.model_copy(update={"exclude": ["*LAION*"]}), Decoding())
    assert (left.images, left.broken) == (0, [])


def test_a_large_set_is_looked_at_in_part_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainingimages, "ROWS", 10)
    data = rows_of(tmp_path, [f"{number}.png" for number in range(1000)])
    first, again = (training_survey(data, Decoding()) for _ in range(2))
    assert (first.rows, first.of, len(first.broken)) == (10, 1000, 10) and first.broken == again.broken
    assert first.sentence().startswith("10 of 1,000 rows, 10 images, ")
    assert "in 10 of 1,000 rows that were looked at: " in first.fault(0)
    numbers = sorted(int(reason.split(".jsonl:")[1].split(",")[0]) for reason in first.broken)
    assert numbers[0] < 300 and numbers[-1] > 700


def test_it_ends_when_its_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainingimages, "AT_ONCE", 4)
    data = rows_of(tmp_path, [None] * 100)
    ticks = itertools.count(0, 25)  # every look at the clock is 25 s later: the first sets the end at 60
    told: list[tuple[int, int]] = []
    found = training_survey(data, Decoding(), lambda *done: told.append(done), lambda: float(next(ticks)))
    assert found.rows == 12 and told == [(4, 100), (8, 100), (12, 100)]
    assert found.sentence().startswith("12 of 100 rows, ")


def test_another_number_of_rows_is_the_error_that_training_gives(tmp_path: Path) -> None:
    data = rows_of(tmp_path, [None]).model_copy(update={"rows": 2})
    with pytest.raises(UserError, match="has 1 rows, the recipe says 2"):
        training_survey(data, Decoding())


@pytest.mark.slow
def test_data_of_a_recipe_looks_at_its_training_images_and_fails_where_training_would(own_home: Path) -> None:
    shutil.copyfile(own_home / "data/mine/images/2.png", own_home / "data/mine/images/extra.png")
    done = command("data", "--recipe", "own")
    assert done.exit_code == 0 and "train.jsonl: 6 images, 0 with an orientation tag, " in done.output
    assert done.output.count("train.jsonl: 6 images") == 1  # both stages read it
    path = own_home / "data/mine/train.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[-1].replace('"3.png"', '"gone.png"')]) + "\n")
    done = command("data", "--recipe", "own")
    assert done.exit_code == 2
    assert f"train.jsonl: 1 images or rows can't be read, in 16 rows: {path}:16, " in done.output.replace("\n", " ")
