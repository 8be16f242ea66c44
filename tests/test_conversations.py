"""Cambrian's conversations: what is read, what is refused, and where the fault is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mllm_eval.data.conversations import ConversationSet, load_image, parse
from mllm_eval.errors import UserError


def said(*turns: str, first: str = "human") -> list[dict[str, str]]:
    other = {"human": "gpt", "gpt": "human"}
    roles = [first if index % 2 == 0 else other[first] for index in range(len(turns))]
    return [{"from": role, "value": turn} for role, turn in zip(roles, turns, strict=True)]


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"image": "a.png", "conversations": said("<image>\nWhat?", "A cat")}, [("<image>\nWhat?", "A cat")]),
        ({"image": "a.png", "conversations": said("What?\n<image>", "A")}, [("<image>\nWhat?", "A")]),
        ({"image": "a.png", "conversations": said("What?", "A")}, [("<image>\nWhat?", "A")]),
        ({"image": ["a", "b"], "conversations": said("<image>x<image>", "A")}, [("<image>\n<image>\nx", "A")]),
        (
            {"image": "a.png", "conversations": said("First", "1", "then <image>?", "2")},
            [("<image>\nFirst", "1"), ("then ?", "2")],
        ),
        ({"conversations": said("Hello", "Hi")}, [("Hello", "Hi")]),
        ({"image": None, "conversations": said("lead", "Hello", "Hi", first="gpt")}, [("Hello", "Hi")]),
    ],
)
def test_images_stand_first_in_the_first_question(row: dict[str, Any], turns: list[tuple[str, str]]) -> None:
    assert list(parse(row).turns) == turns


def test_a_system_prompt_is_the_rows_own() -> None:
    row = {"conversations": [{"from": "system", "value": "Be brief."}, *said("Hello", "Hi")]}
    assert parse(row).system == "Be brief."
    assert parse({"conversations": said("Hello", "Hi")}).system is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "not a JSON object"),
        ({"id": 1}, "`conversations` is missing"),
        ({"conversations": []}, "`conversations` is missing"),
        ({"conversations": said("Hello")}, "each followed by an answer"),
        ({"conversations": [*said("a", "b"), *said("c", first="gpt"), *said("d")]}, "must alternate"),
        ({"conversations": [{"from": "human"}]}, "no text in `value`"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "from 'bot'"),
        ({"image": 3, "conversations": said("a", "b")}, "neither a file name"),
        ({"image": "a", "conversations": said("<image><image>", "b")}, "2 <image> marks for 1 images"),
        ({"conversations": said("<image>", "b")}, "1 <image> marks for 0 images"),
        ({"conversations": said("a", "the <image> here")}, "an answer contains <image>"),
    ],
)
def test_a_broken_row_says_what_is_wrong(row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(row)


def write(folder: Path, *lines: str) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_rows_are_read_by_number_and_in_order(tmp_path: Path) -> None:
    rows = [json.dumps({"conversations": said(f"q{index} ü", f"a{index}")}) for index in range(5)]
    found = ConversationSet(write(tmp_path, *rows[:2], "", *rows[2:]), tmp_path / "images", rows=5)
    assert len(found) == 5
    assert found[3].turns == (("q3 ü", "a3"),)
    assert [row.turns[0][1] for row in found] == [f"a{index}" for index in range(5)]
    assert found.where(3).endswith("rows.jsonl:5")


def test_a_broken_line_names_file_and_line(tmp_path: Path) -> None:
    good = json.dumps({"conversations": said("q", "a")})
    found = ConversationSet(write(tmp_path, good, "", '{"conversations": [', good), tmp_path / "images")
    with pytest.raises(UserError, match=r"rows\.jsonl:3: is not JSON"):
        list(found)
    assert found[2].turns


def test_missing_files_and_wrong_counts_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps({"conversations": said("q", "a")}))
    with pytest.raises(UserError, match="no such file of conversations"):
        ConversationSet(tmp_path / "no.jsonl", tmp_path)
    with pytest.raises(UserError, match=r"the image root of rows\.jsonl does not exist"):
        ConversationSet(path, tmp_path / "nowhere")
    with pytest.raises(UserError, match="has 1 rows, the recipe says 7"):
        ConversationSet(path, tmp_path / "images", rows=7)
    with pytest.raises(UserError, match="holds no conversation"):
        ConversationSet(write(tmp_path, ""), tmp_path / "images")


def test_a_broken_image_names_its_file(tmp_path: Path) -> None:
    good, broken = tmp_path / "good.png", tmp_path / "broken.png"
    Image.effect_noise((40, 30), 50).save(good)
    broken.write_bytes(good.read_bytes()[:200])
    assert load_image(good).mode == "RGB"
    for path in (broken, tmp_path / "missing.png"):
        with pytest.raises(UserError, match=path.name):
            load_image(path)
