"""Cambrian's conversations: what is read, what is refused, and where the fault is."""

from __future__ import annotations

import json
import math
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


SHOWN = {"type": "image", "index": 0, "text": None}


def chat(*turns: Any) -> list[dict[str, Any]]:
    roles = ["user", "assistant"] * len(turns)
    return [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)]


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
        ({"image": "a.png", "conversations": said("<image><image>\nx", "A")}, [("<image>\nx", "A")]),
        ({"images": ["a", "b"], "messages": chat("x", "A")}, [("<image>\n<image>\nx", "A")]),
        ({"images": [{"path": "a", "bytes": None}], "conversations": said("x", "A")}, [("<image>\nx", "A")]),
        ({"images": "a", "messages": chat([SHOWN, {"type": "text", "text": "x"}], "A")}, [("<image>\nx", "A")]),
        (
            {"messages": chat([{"type": "image", "path": "a"}, {"type": "text", "text": "x", "index": None}], "A")},
            [("<image>\nx", "A")],
        ),
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
        ({"image": ["a", "b", "c"], "conversations": said("<image><image>", "b")}, "2 <image> marks for 3 images"),
        ({"conversations": said("<image>", "b")}, "1 <image> marks for 0 images"),
        ({"conversations": said("a", "the <image> here")}, "an answer contains <image>"),
    ],
)
def test_a_broken_row_says_what_is_wrong(row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(row)


@pytest.mark.parametrize("name", ["", "None", "none", "nan", math.nan, None, [], [None], {"path": None, "bytes": None}])
@pytest.mark.parametrize("key", ["image", "images", "video", "depth_map"])
def test_a_field_that_names_nothing_makes_no_picture(key: str, name: Any) -> None:
    # Through JSON, as rows come: NaN is a word of Python's.
    row = json.loads(json.dumps({key: name, "conversations": said("x", "A")}))
    assert parse(row).images == ()


@pytest.mark.parametrize(
    "field",
    [
        {"image_path": "a.png"},
        {"img": "a.png"},
        {"Image": "a.png"},
        {"imgs": ["a.png"]},
        {"picture": "a.png"},
        {"video": "a.mp4"},
        {"videos": ["a.mp4"]},
        {"audio": {"path": "a.wav"}},
        {"pixel_values": [[1]]},
        {"file": "a"},
        {"image_id": 7},
        # A note whose value is a picture.
        {"id": "train/a.JPG"},
        {"source": "https://a.org/a.webp?w=3"},
        {"metadata": {"image": "a"}},
        {"meta": [{"more": "clip.mp4"}]},
    ],
)
def test_a_row_that_names_its_picture_elsewhere_is_never_text_alone(field: dict[str, Any]) -> None:
    (key,) = field
    with pytest.raises(ValueError, match=f"(unknown key '{key}'|`{key}[a-z.]*` (names a picture|tells of an image))"):
        parse({**field, "conversations": said("x", "A")})
    first, second = said("x", "A")
    with pytest.raises(ValueError, match=f"a message: .*{key}"):
        parse({"conversations": [{**first, **field}, second]})


def test_unknown_fields_are_errors_with_the_near_name_unless_the_recipe_passes_over_them() -> None:
    plain = {"image": "a.png", "conversations": said("x", "A")}
    with pytest.raises(ValueError, match=r"unknown key 'imagess'\. Did you mean 'images'\?"):
        parse({**plain, "imagess": ["b.png"]})
    with pytest.raises(ValueError, match=r"missing or empty\. Did you mean 'conversation'\?"):
        parse({"conversation": said("x", "A")})
    with pytest.raises(ValueError, match="unknown key 'chosen'"):
        parse({**plain, "chosen": "A"})
    assert parse({**plain, "chosen": "A"}, {"chosen"}) == parse(plain)
    for other in ({"video": "b.mp4"}, {"image2": "b.png"}, {"second_image": "b.png"}):
        with pytest.raises(ValueError, match="unknown key"):
            parse({**plain, **other}, {*other})


@pytest.mark.parametrize(
    "notes",
    [
        {"id": 7, "model": "", "source": "coco", "dataset": "x", "type": "detail", "metadata": {"n": 1}},
        {"width": 640, "height": 480, "task": "vqa", "language": "en", "video": None, "images": []},
    ],
)
def test_the_notes_of_public_sets_are_passed_over(notes: dict[str, Any]) -> None:
    said_of_it = {"image_id": 3, "url": "https://a.org/a.png", "bbox": [1, 2], "source": "coco/a.jpg"}
    assert parse({**notes, "conversations": said("x", "A")}).images == ()
    assert parse({**notes, **said_of_it, "image": "a.png", "conversations": said("x", "A")}).images == ("a.png",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a", "images": ["b"], "conversations": said("x", "A")}, "name different files"),
        ({"image": {"bytes": "iVBO", "path": "a"}, "conversations": said("x", "A")}, "holds an image's bytes"),
        ({"image": "https://a.org/a.png", "conversations": said("x", "A")}, "not a file name"),
        ({"image": "a\0b", "conversations": said("x", "A")}, "cannot be a file name"),
        ({"image": ["a", None], "conversations": said("x", "A")}, "neither a file name"),
        ({"conversations": said("x", "A"), "messages": chat("x", "A")}, "both `conversations` and `messages`"),
        ({"messages": chat([{"type": "video"}], "A")}, "of type 'video'"),
        ({"images": ["a", "b"], "messages": chat([{"type": "image", "index": 1}], "A")}, "shows image 1 where image 0"),
        ({"image": "b", "messages": chat([{"type": "image", "path": "a"}], "A")}, "not those of the row"),
        ({"conversations": said("<video>\nWhat happens?", "A")}, "contains <video>, the mark of another tool"),
        ({"conversations": said("Picture 1: <img>a.png</img> x", "A")}, "the mark of another tool"),
        ({"conversations": said("x", "half \ud800")}, "half of a surrogate pair"),
        ({"system": "a", "conversations": [{"from": "system", "value": "b"}, *said("x", "A")]}, "two system prompts"),
        ({"image": "a", "conversations": said("x", "A", "<image> y")}, "a last question that has no answer"),
    ],
)
def test_what_cannot_be_taken_plainly_is_refused(row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(row)


def test_html_in_a_question_is_text() -> None:
    text = "<video><source src='a'></video> and <img src='a.png'>: what is wrong?"
    assert parse({"conversations": said(text, "A")}).turns == ((text, "A"),)


@pytest.mark.parametrize(("key", "off", "on"), [("weight", 0, 1), ("loss", False, True), ("train", False, True)])
def test_a_turn_of_weight_0_is_masked(key: str, off: Any, on: Any) -> None:
    row = {"conversations": said("a", "b", "c", "d")}
    row["conversations"][1][key], row["conversations"][3][key] = off, on
    row["conversations"][0][key] = off
    assert parse(row).masked == (0,)
    row["conversations"][3][key] = 0.5
    with pytest.raises(ValueError, match=f"`{key}` is 0.5; 0 .* and 1 are read"):
        parse(row)
    row["conversations"][3][key], row["conversations"][2][key] = on, on
    with pytest.raises(ValueError, match="only answers are learnt"):
        parse(row)


def test_what_is_not_taken_as_it_stands_is_noted() -> None:
    def why(*turns: str, first: str = "human") -> list[str]:
        return [change.why for change in parse({"image": "a", "conversations": said(*turns, first=first)}).changes]

    assert why("<image>x", "A") == []
    assert why("<image>x", "A", "<image>y") == ["last question"]
    assert why("<image>x", "A", "<image>y", "B", "z") == ["last question", "repeated marks"]
    assert why("lead", "<image>x", "A", first="gpt") == ["leading answer"]


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


@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize(
    ("twice", "field"),
    [
        ('{"image": "a.png", "conversations": TURNS, "image": "b.png"}', "image"),
        ('{"conversations": TURNS, "conversations": TURNS}', "conversations"),
        ('{"conversations": [{"from": "human", "value": "q", "value": "r"}, {"from": "gpt", "value": "a"}]}', "value"),
    ],
)
def test_a_field_that_is_there_twice_is_refused(twice: str, field: str, array: bool, tmp_path: Path) -> None:
    turns = json.dumps(said("q", "a"))
    rows = [json.dumps({"conversations": said("q", "a")}), twice.replace("TURNS", turns)]
    path = write(tmp_path, "[", f"{rows[0]},", rows[1], "]") if array else write(tmp_path, *rows)
    found = ConversationSet(path, tmp_path / "images")
    line = 3 if array else 2
    with pytest.raises(UserError, match=rf"rows\.jsonl:{line}: field '{field}' is there twice; mend or remove the row"):
        found[1]
    assert isinstance(list(found.read_from(0))[1], UserError)


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
    path.write_bytes(b"PAR1\x15\x04")
    with pytest.raises(UserError, match="is a parquet file; conversations are read from JSON lines"):
        ConversationSet(path, tmp_path / "images")


@pytest.mark.parametrize("array", [False, True])
def test_a_byte_order_mark_is_no_part_of_the_rows(array: bool, tmp_path: Path) -> None:
    row = json.dumps({"conversations": said("q", "a")})
    path = write(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + (f"[{row}, {row}]" if array else f"{row}\r\n{row}").encode())
    assert len(list(ConversationSet(path, tmp_path / "images"))) == 2


def test_a_broken_image_names_its_file(tmp_path: Path) -> None:
    good, broken = tmp_path / "good.png", tmp_path / "broken.png"
    Image.effect_noise((40, 30), 50).save(good)
    broken.write_bytes(good.read_bytes()[:200])
    assert load_image(good).mode == "RGB"
    for path in (broken, tmp_path / "missing.png"):
        with pytest.raises(UserError, match=path.name):
            load_image(path)
