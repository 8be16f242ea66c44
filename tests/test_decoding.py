"""Pixels as people see them: turned, in their range, on a ground, bounded, and by one decoder."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mllm_eval import decoding
from mllm_eval.adapters.preprocessing import to_pixels
from mllm_eval.catalog import Preprocessing, Recipe, load_benchmark, load_recipe, paper_benchmarks
from mllm_eval.catalog.benchmark import Benchmark, read_benchmark
from mllm_eval.config import load
from mllm_eval.data.images import FilePicture
from mllm_eval.data.samples import Kept
from mllm_eval.data.survey import survey
from mllm_eval.decoding import Decoding, decode, load_image, orientation_tag, pixels_key, to_rgb
from mllm_eval.errors import UserError
from mllm_eval.storage import SHIPPED, sha256_bytes

RAMP = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))
WHITE = Decoding(background="#ffffff")


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


def greys(data: bytes, how: Decoding = decoding.PLAIN) -> np.ndarray[Any, Any]:
    found = decode(data, "x", how)
    assert found.mode == "RGB"
    return np.asarray(found)[..., 0]


def tagged(turn: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = turn
    halves = np.zeros((40, 80, 3), np.uint8)
    halves[:, :40, 0], halves[20:, 40:, 1] = 255, 255
    return encoded(Image.fromarray(halves), kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_an_image_is_turned_as_datasets_turns_it(kind: str, turn: int) -> None:
    datasets = pytest.importorskip("datasets")
    data = tagged(turn, kind)
    theirs = datasets.Image().decode_example({"bytes": data, "path": None}).convert("RGB")
    ours = decode(data, "x")
    assert ours.size == theirs.size == ((40, 80) if turn > 4 else (80, 40))
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    # Whoever gets it turns it no more.
    np.testing.assert_array_equal(np.asarray(to_rgb(ours)), np.asarray(ours))


def test_as_llava_trains_the_tag_is_ignored() -> None:
    flat = decode(tagged(6), "x", Decoding(upright=False))
    plain = Image.open(io.BytesIO(tagged(6))).convert("RGB")
    np.testing.assert_array_equal(np.asarray(flat), np.asarray(plain))
    # Nor is it turned on its way to the encoder.
    facts = Preprocessing(size=8, mean=(0, 0, 0), std=(1, 1, 1), mode="squash", interpolation="bilinear")
    np.testing.assert_array_equal(to_pixels(flat, facts), to_pixels(Image.fromarray(np.asarray(flat)), facts))
    assert orientation_tag(tagged(6)) == 6 and orientation_tag(tagged(1)) == 1
    assert orientation_tag(encoded(Image.new("RGB", (2, 2)))) is None and orientation_tag(b"no image, Exif\0\0") is None


def test_a_broken_exif_block_is_no_orientation() -> None:
    data = encoded(Image.new("RGB", (4, 2)), "JPEG", exif=b"Exif\0\0nonsense")
    assert decode(data, "x").size == (4, 2) and pixels_key(data) == sha256_bytes(data)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (RAMP, "PNG"),
        (RAMP, "TIFF"),
        (RAMP.astype(">u2"), "TIFF"),
        (RAMP.astype(np.int32), "TIFF"),
        (RAMP.astype(np.int32) * 1000 - 70000, "TIFF"),
        ((RAMP / 65535).astype(np.float32), "TIFF"),
        ((RAMP // 257).astype(np.float32), "TIFF"),
        ((RAMP * 3.0 - 5).astype(np.float32), "TIFF"),
    ],
)
def test_deep_grey_keeps_its_range(values: np.ndarray[Any, Any], kind: str) -> None:
    found = greys(encoded(Image.fromarray(values), kind))
    np.testing.assert_allclose(found, np.tile(np.arange(256), (4, 1)), atol=1)
    assert found.min() == 0 and found.max() == 255


def test_eight_bits_in_a_wider_type_are_themselves() -> None:
    eight = np.arange(256).reshape(16, 16)
    for values in (eight.astype(np.int32), eight.astype(np.float32)):
        np.testing.assert_array_equal(greys(encoded(Image.fromarray(values), "TIFF")), eight)
    np.testing.assert_array_equal(greys(encoded(Image.fromarray((eight << 8).astype(np.uint16)))), eight)
    np.testing.assert_array_equal(greys(encoded(Image.fromarray((eight * 257).astype(np.uint16)))), eight)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_an_error(bad: float) -> None:
    with pytest.raises(UserError, match=r"a\.tif: the image can't be decoded .*not finite"):
        decode(encoded(Image.fromarray(np.array([[0, bad]], np.float32)), "TIFF"), "a.tif")


def ink(mode: str) -> bytes:
    """Black ink on a clear ground that is black underneath."""
    alpha = np.zeros((8, 8), np.uint8)
    alpha[2:4] = 255
    if mode == "P":
        image = Image.fromarray((alpha > 0).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 0, 0, 0])
        return encoded(image, transparency=0)
    if mode == "I;16":
        return encoded(Image.fromarray(np.where(alpha, 1, 0).astype(np.uint16)), transparency=0)
    image = Image.new(mode, (8, 8))
    image.putalpha(Image.fromarray(alpha))
    return encoded(image)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_ink_on_a_clear_ground_is_seen_on_white_and_lost_as_the_paper_has_it(mode: str) -> None:
    data = ink(mode)
    assert set(np.unique(greys(data))) == {0}
    on_white = greys(data, WHITE)
    assert (on_white[2:4] == 0).all() and (on_white[:2] == 255).all()
    opaque = encoded(Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).convert("RGBA"))
    np.testing.assert_array_equal(greys(opaque), greys(opaque, WHITE))


@pytest.mark.slow
def test_cmyk_and_thin_images() -> None:
    halves = np.zeros((8, 80, 3), np.uint8)
    halves[:, :40] = 255
    found = greys(encoded(Image.fromarray(halves).convert("CMYK"), "JPEG", quality=95))
    assert found[:, :38].min() > 240 and found[:, 42:].max() < 15
    for mode in ("pad", "squash", "crop"):
        facts = Preprocessing(size=8, mean=(0, 0, 0), std=(1, 1, 1), mode=mode, interpolation="bilinear")
        for size in ((60_000, 1), (1, 60_000)):
            assert to_pixels(Image.new("RGB", size, (9, 9, 9)), facts).shape == (3, 8, 8)


def test_the_key_differs_exactly_where_pixels_may() -> None:
    plain = [encoded(Image.new("RGB", (4, 4))), encoded(Image.new("RGB", (4, 4)), "JPEG"), ink("RGBA"), tagged(1)]
    plain += [tagged(6, "TIFF"), b"no image"]
    for data in plain:
        assert pixels_key(data) == sha256_bytes(data)
    deep = encoded(Image.fromarray(RAMP))
    keys = [pixels_key(data) for data in (tagged(6), deep)] + [pixels_key(ink(m), WHITE) for m in ("RGBA", "LA", "P")]
    keys += [pixels_key(ink("RGBA"), Decoding(background="#ff0000"))]
    shas = [sha256_bytes(data) for data in (tagged(6), deep, ink("RGBA"), ink("LA"), ink("P"))]
    assert len({*keys, *shas}) == len(keys) + len(shas)
    assert pixels_key(tagged(6), Decoding(upright=False)) == sha256_bytes(tagged(6))


def test_what_pil_warns_of_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    path = tmp_path / "large.png"
    path.write_bytes(encoded(Image.new("RGB", (8, 5))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(UserError, match=r"large\.png: image of 8 x 5 pixels, more than 30"):
            load_image(path)
        with pytest.raises(UserError, match=r"large\.png: image of 8 x 5 pixels, more than 30"):
            decoding.look_at_image(path)
    with pytest.raises(UserError, match=r"gone\.png: the image can't be read"):
        FilePicture("0" * 64, str(tmp_path / "gone.png"), "gone.png").load()


def own(tmp_path: Path, line: str) -> Benchmark:
    folder = tmp_path / "own"
    folder.mkdir(exist_ok=True)
    text = "name: own\ntitle: Own\ncategory: general\nchance: 0\ndata: {mine: {repo: a/b, split: test}}\n"
    text += (
        "reader: mllm_eval.data.readers:question\ngeneration: {max_new_tokens: 1}\nrules: {cambrian: {version: 1}}\n"
    )
    (folder / "benchmark.yaml").write_text(text + line)
    return read_benchmark(folder / "benchmark.yaml")


def test_the_papers_benchmarks_drop_alpha_and_ones_own_get_white(tmp_path: Path) -> None:
    for name in paper_benchmarks():
        assert load_benchmark(name).background is None
        assert "background" not in load_benchmark(name).model_dump(), "their protocol's hash would change"
    assert own(tmp_path, "").background == own(tmp_path, "background: white").background == "#ffffff"
    assert own(tmp_path, "background: null").background is None
    assert own(tmp_path, 'background: "#f00"').background == "#ff0000"
    for bad in ("background: whitish", 'background: "#ff000080"'):
        with pytest.raises(UserError, match="a colour is a name"):
            own(tmp_path, bad)
    with pytest.raises(UserError, match=r"benchmark.yaml:9: yaml reads #ff0000 as a comment"):
        own(tmp_path, "background: #ff0000")


def test_a_recipe_says_how_training_images_are_decoded(tmp_path: Path) -> None:
    mini = load_recipe("mini")
    assert mini.upright and mini.background is None
    path = tmp_path / "mine.yaml"
    path.write_text("base: package:configs/recipes/mini.yaml\nupright: false\nbackground: white\n")
    mine = load(path, Recipe)
    assert (mine.upright, mine.background) == (False, "#ffffff") and mine.hash != mini.hash
    path.write_text("base: package:configs/recipes/mini.yaml\nupright: true\n")
    assert load(path, Recipe).hash == mini.hash


def test_a_map_is_one_whole_number_a_pixel_within_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "map.png"
    deep = np.array([[0, 40000], [7, 65535]], np.uint16)
    Image.fromarray(deep).save(path)
    assert decoding.load_map(path).tolist() == deep.tolist()
    Image.fromarray(np.array([[3, 255]], np.uint8)).save(path)
    assert decoding.load_map(path).tolist() == [[3, 255]]
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1)
    with pytest.raises(UserError, match="image of 2 x 1 pixels"):
        decoding.load_map(path)
    monkeypatch.undo()
    Image.new("RGB", (2, 2)).save(path)
    with pytest.raises(UserError, match="one whole number a pixel"):
        decoding.load_map(path)
    path.write_bytes(b"no map")
    with pytest.raises(UserError, match=r"map\.png: the image can't be decoded"):
        decoding.load_map(path)
    with pytest.raises(UserError, match="can't be read"):
        decoding.load_map(tmp_path / "none.png")


def test_no_image_is_opened_elsewhere() -> None:
    package = Path(decoding.__file__).parent
    found = [
        str(path.relative_to(package))
        for path in [*package.rglob("*.py"), *(SHIPPED / "adapters").rglob("*.py")]
        if re.search(r"\bImage\.open\b|\bimread\b|decode_image\b", path.read_text())
        and not path.is_relative_to(package / "miniature")
    ]
    assert found == ["decoding.py"]


def test_data_counts_turned_blank_and_broken_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLLM_EVAL_DATA", str(tmp_path))
    colourful = encoded(Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)))
    shown = [colourful, colourful, tagged(6), tagged(1), ink("RGBA"), b"no image"]
    kept = []
    for number, data in enumerate(shown):
        path = tmp_path / f"{number}.png"
        path.write_bytes(data)
        kept.append(Kept(number, f"q{number}", (FilePicture(pixels_key(data), str(path), path.name),), "", "", "", {}))
    found = survey("own", "mine", kept)
    assert (found.images, found.tagged, found.flat, found.broken) == (5, 2, 1, 1)
    assert "1 of fewer than 3 colours (q4), 1 that can't be decoded (q5)" in found.sentence()
    # Looked at once: the second time no file is opened.
    for path in tmp_path.glob("*.png"):
        path.unlink()
    assert survey("own", "mine", kept) == found
    assert survey("own", "mine", kept[:1]).broken == 1
