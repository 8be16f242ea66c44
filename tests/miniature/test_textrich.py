"""The miniature's corpus: what its pictures hold is known, and a pretraining sees what a filter keeps."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from mllm_eval.errors import UserError
from mllm_eval.miniature import reading
from mllm_eval.miniature.pretrain.make import make
from mllm_eval.miniature.textrich import SERIES, Pool, build, keep, load_pool, named, true_keys
from mllm_eval.miniature.world import KINDS, draw
from mllm_eval.storage import write_json


def test_what_can_be_read_is_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """`has_text` is held to the strokes that draw a picture; what a document is, is known by kind."""
    wrote: list[str] = []
    for module in ("objects", "print_", "documents"):
        whole = __import__(f"mllm_eval.miniature.world.{module}", fromlist=["write"])
        real = whole.write

        def told(pen: object, text: str, *rest: object, real: object = real, **more: object) -> object:
            wrote.append(text)
            return real(pen, text, *rest, **more)  # type: ignore[operator]

        monkeypatch.setattr(whole, "write", told)
    for kind in KINDS:
        for index in range(12):
            wrote.clear()
            picture = draw("t", index, kind)
            assert reading.has_text(picture) == bool(wrote), (kind, index)
            assert reading.is_document(picture) == (kind in ("chart", "table", "form")), (kind, index)


def test_a_corpus_is_rendered_once_with_its_labels(tmp_path: Path) -> None:
    place = build(tmp_path, pictures=24)
    before = (place / "00000.tar").read_bytes()
    with tarfile.open(place / "00000.tar") as archive:
        names = archive.getnames()
        told = {name: json.loads(archive.extractfile(name).read()) for name in names if name.endswith(".json")}  # type: ignore[union-attr]
    assert len(names) == 72 and names[:3] == ["scene-000000.png", "scene-000000.txt", "scene-000000.json"]
    assert told["chart-000001.json"] == {"kind": "chart", "text": True, "document": True}
    assert told["pattern-000000.json"] == {"kind": "pattern", "text": False, "document": False}
    build(tmp_path, pictures=24)
    assert (place / "00000.tar").read_bytes() == before
    heavy = [key for key in told if told[key]["document"]]
    assert [f"{key}.json" for key in true_keys("heavy", 24)] == heavy and len(heavy) == 6
    assert len(list(true_keys("none", 24))) == 24


def test_a_pretraining_sees_what_is_kept_and_nothing_else(tmp_path: Path) -> None:
    folder = keep("heavy", true_keys("heavy", 120), "its labels", tmp_path / "heavy")
    pool = load_pool(str(folder))
    assert pool.about["kept"] == 30 and set(pool.by_kind) == {"chart", "table", "form"}
    mixed, alike = pool.pictures("s", 3, 24, False), pool.pictures("s", 4, 24, True)
    assert {one.kind for one in mixed} == set(pool.by_kind) and len({one.kind for one in alike}) == 1
    allowed = {draw(SERIES, index, kind).image.tobytes() for kind, numbers in pool.by_kind.items() for index in numbers}
    assert all(one.image.tobytes() in allowed for one in (*mixed, *alike))
    again = load_pool(str(folder)).pictures("s", 3, 24, False)
    assert [one.image.tobytes() for one in again] == [one.image.tobytes() for one in mixed]
    assert len({one.image.tobytes() for one in mixed}) == 24, "none twice while there are others"


def test_lists_of_keys_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no picture of the miniature"):
        keep("heavy", ["000123"], "somebody", tmp_path / "a")
    with pytest.raises(UserError, match="nothing is kept"):
        keep("heavy", [], "somebody", tmp_path / "a")
    with pytest.raises(UserError, match="miniature corpus --level"):
        load_pool(str(tmp_path / "gone"))
    assert named("sign-000012") == ("sign", 12)
    pool = load_pool(str(keep("light", true_keys("light", 24), "its labels", tmp_path / "light")))
    with pytest.raises(UserError, match="--only mini-dino"):
        make(tmp_path / "work", ("mini-clip",), tmp_path / "out", pool=pool)


def test_weights_of_other_steps_corpus_or_seed_are_not_taken_for_those_asked(tmp_path: Path) -> None:
    first, other = (
        load_pool(str(keep("heavy", list(true_keys("heavy", n)), "x", tmp_path / str(n)))) for n in (24, 48)
    )

    def ask(steps: int, pool: Pool, seed: int, out: Path) -> None:
        make(tmp_path / out.name / "work", ("mini-dino",), out, steps={"mini-dino": steps}, pool=pool, seed=seed)

    begun, whole = tmp_path / "begun", tmp_path / "whole"
    write_json(begun / "work" / "mini-dino.json", {"steps": 7, "corpus": first.about["keys"], "seed": 1})
    measured = {"steps": 7, "corpus": first.about, "seed": 1}
    write_json(whole / "mini-dino" / "measured.json", measured)
    for name in ("model.safetensors", "README.md"):
        (whole / "mini-dino" / name).write_bytes(b"")
    for out in (begun, whole):
        for steps, pool, seed, why in (
            (8, first, 1, "steps 7, not 8"),
            (7, other, 1, "another corpus"),
            (7, first, 2, "seed 1, not 2"),
        ):
            with pytest.raises(UserError, match=f"made with {why}; say another --out"):
                ask(steps, pool, seed, out)
    ask(7, first, 1, whole)


def test_the_questions_rows_are_in_cambrians_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "ROWS", 24)
    rows = [json.loads(line) for line in (reading.build(tmp_path) / "train.jsonl").read_text().splitlines()]
    assert len(rows) == 24 and rows[0]["image"] == "instruct/scene/00000.png"
    answers = {row["image"]: [turn["value"] for turn in row["conversations"][1::2]] for row in rows}
    assert answers["instruct/chart/00000.png"] == ["yes", "yes"] and answers["instruct/scene/00000.png"] == ["no", "no"]
    assert sorted(answers["instruct/sign/00000.png"]) == ["no", "yes"]
    assert all(row["conversations"][0]["value"].startswith("<image>\n") for row in rows)
