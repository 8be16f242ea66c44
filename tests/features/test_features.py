"""The feature store survives crashes and damage; extraction encodes each image once."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from tiny_models import make_encoder, make_image, random_features
from torch.utils._python_dispatch import TorchDispatchMode

from mllm_eval.adapters import load_encoder_model
from mllm_eval.data.samples import ImageRef
from mllm_eval.errors import UserError
from mllm_eval.features import Features, FeatureStore, extract
from mllm_eval.features.extraction import OnBroken
from mllm_eval.features.storeshards import HEADER, ShardWriter, index_of


def names(count: int) -> list[str]:
    return [hashlib.sha256(str(index).encode()).hexdigest() for index in range(count)]


@pytest.fixture(autouse=True)
def _plenty_of_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM_EVAL_FEATURES_BYTES", "1TB")


def make_store(folder: Path, dtype: str = "float32") -> FeatureStore:
    return FeatureStore(folder, (3, 4), 5, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_is_put_is_got_in_any_order_and_after_reopening(dtype: str, tmp_path: Path) -> None:
    images = names(7)
    patches, summaries = random_features(7)
    store = make_store(tmp_path, dtype)
    store.put_many(images[:4], patches[:4], summaries[:4])
    store.put_many(images[4:], patches[4:], summaries[4:])
    kind = getattr(torch, dtype)
    order = [6, 0, 3, 3, 5]
    for opened in (store, make_store(tmp_path, dtype)):
        asked = [images[index] for index in order]
        assert torch.equal(opened.get_many(asked), patches[order].to(kind))
        assert torch.equal(opened.summaries(asked), summaries[order].to(kind))
        assert opened.get_many([]).shape == (0, 3, 4, 5) and opened.summaries([]).shape == (0, 5)
        assert len(opened) == 7 and opened.missing([*images, *names(8)]) == names(8)[7:]


def test_a_reader_sees_a_writers_shard_after_refresh(tmp_path: Path) -> None:
    reader, writer = make_store(tmp_path), make_store(tmp_path)
    writer.put_many(names(2), *random_features(2))
    assert len(reader) == 0
    reader.refresh()
    assert torch.equal(reader.get_many(names(2)), writer.get_many(names(2)))


def test_a_shard_cut_off_by_a_crash_does_not_count(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.put_many(names(2), *random_features(2))
    (index,) = tmp_path.glob("*.index")
    index.unlink()
    assert len(make_store(tmp_path)) == 0


@pytest.mark.parametrize("cut", [1, 81, 82, 83])
def test_an_entry_cut_off_by_a_crash_does_not_count_and_those_before_it_do(cut: int, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    patches, summaries = random_features(3)
    store.put_many(names(3), patches, summaries)
    (index,) = tmp_path.glob("*.index")
    os.truncate(index, index.stat().st_size - cut)
    whole = 2 if cut <= 82 else 1
    opened = make_store(tmp_path)
    assert opened.missing(names(3)) == names(3)[whole:]
    assert torch.equal(opened.get_many(names(whole)), patches[:whole])


def test_an_entry_with_a_flipped_bit_or_without_its_row_does_not_count(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.put_many(names(3), *random_features(3))
    (index,), (rows,) = tmp_path.glob("*.index"), tmp_path.glob("*.safetensors")
    content = bytearray(index.read_bytes())
    content[-150] ^= 1
    index.write_bytes(content)
    assert make_store(tmp_path).missing(names(3)) == names(3)[1:2]
    os.truncate(rows, rows.stat().st_size - 1)
    assert make_store(tmp_path).missing(names(3)) == names(3)[1:]


def test_a_shard_of_another_size_of_row_is_left_out_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    FeatureStore(tmp_path, (2, 4), 5).put_many(names(2), torch.zeros(2, 2, 4, 5), torch.zeros(2, 5))
    with caplog.at_level(logging.WARNING):
        opened = make_store(tmp_path)
        opened.refresh()
    assert opened.missing(names(2)) == names(2)
    assert len(caplog.records) == 1 and "180 bytes, not 260" in caplog.text
    opened.put_many(names(2), *random_features(2, seed=1))
    assert torch.equal(make_store(tmp_path).get_many(names(2)), random_features(2, seed=1)[0])


def damage(folder: Path, at: int = -10) -> None:
    """Flip bits of a byte in the only shard's rows."""
    (path,) = folder.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def test_a_damaged_row_is_found_once_and_its_replacement_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = names(3)
    make_store(tmp_path).put_many(images, *random_features(3))
    damage(tmp_path)
    opened = make_store(tmp_path)
    with pytest.raises(UserError, match=images[2]):
        opened.get_many(images)
    assert "row 2 is damaged" in caplog.text
    assert opened.missing(images) == make_store(tmp_path).missing(images) == images[2:]
    patches, summaries = random_features(3)
    opened.put_many(images[2:], patches[2:], summaries[2:])
    caplog.clear()
    assert torch.equal(opened.get_many(images), patches)
    assert torch.equal(make_store(tmp_path).get_many(images), patches) and not caplog.records


def test_a_damaged_row_is_read_from_where_else_the_image_is(tmp_path: Path) -> None:
    patches, summaries = random_features(2)
    for store in (make_store(tmp_path), make_store(tmp_path)):
        store.put_many(names(2), patches, summaries)
    first = sorted(tmp_path.glob("*.safetensors"))[0]
    first.write_bytes(first.read_bytes()[:HEADER] + bytes(first.stat().st_size - HEADER))
    assert torch.equal(make_store(tmp_path).get_many(names(2)), patches)


def test_thousands_of_images_are_found_among_each_other(tmp_path: Path) -> None:
    images = names(9000)
    store = FeatureStore(tmp_path, (1, 1), 2)
    rows = torch.arange(9000 * 4, dtype=torch.float32).view(9000, 2, 2)
    for start in range(0, 9000, 1500):
        store.put_rows(images[start : start + 1500], rows[start : start + 1500])
    asked = torch.randperm(9000)[:500]
    for opened in (store, FeatureStore(tmp_path, (1, 1), 2)):
        assert torch.equal(opened.rows([images[at] for at in asked])[0], rows[asked])
        assert opened.missing(["0" * 64, *images, "f" * 64]) == ["0" * 64, "f" * 64]


def test_other_tools_open_a_shard_at_any_time_and_its_index_says_whose_rows_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    patches, summaries = random_features(5)
    rows = torch.cat([patches.flatten(1, 2), summaries[:, None]], 1)

    def read() -> tuple[torch.Tensor, list[str]]:
        (shard,) = tmp_path.glob("*.safetensors")
        with safe_open(shard, "pt") as file:
            return file.get_tensor("features"), [line.split()[0] for line in index_of(shard).read_text().splitlines()]

    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        store = make_store(tmp_path, str(dtype).removeprefix("torch."))
        for start, stop in ((0, 2), (2, 5)):
            store.put_many(names(5)[start:stop], patches[start:stop], summaries[start:stop])
            found, images = read()
            assert torch.equal(found, rows[:stop].to(dtype)) and images == names(stop)
        # What a writer has reserved when it is killed is there, and is nobody's.
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(ShardWriter, "append", killed)
            store.put_many(names(9)[5:], *random_features(4))
        found, images = read()
        assert (
            len(found) == 9
            and images == names(5)
            and make_store(tmp_path, store.dtype).missing(names(6)) == names(6)[5:]
        )
        store.close()
        assert len(read()[0]) == 5
        for path in tmp_path.iterdir():
            path.unlink()


def test_views_lie_in_the_file_and_changing_one_changes_nothing_there(tmp_path: Path) -> None:
    patches, summaries = random_features(3)
    make_store(tmp_path).put_many(names(3), patches, summaries)
    store = make_store(tmp_path)
    first, none, second = store.views([names(3)[2], "0" * 64, names(3)[0]])
    assert first is not None and none is None and second is not None
    assert first.data_ptr() - second.data_ptr() == 2 * store.row_bytes
    assert torch.equal(first[:-1].view(3, 4, 5), patches[2]) and torch.equal(second[-1], summaries[0])
    first.zero_()
    assert torch.equal(make_store(tmp_path).get_many(names(3)), patches)


def test_mapped_files_and_held_shards_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patches, summaries = random_features(12)
    for at in range(12):
        make_store(tmp_path).put_many(names(12)[at : at + 1], patches[at : at + 1], summaries[at : at + 1])
    monkeypatch.setattr("mllm_eval.features.opened.OPEN", 3)
    monkeypatch.setattr("mllm_eval.features.opened.MAPPED_BYTES", 2 * make_store(tmp_path).row_bytes)
    store = make_store(tmp_path)
    for _ in range(2):
        assert torch.equal(store.get_many(names(12)), patches)
        maps = Path("/proc/self/maps").read_text()
        assert sum(str(tmp_path) in line for line in maps.splitlines()) <= 3
        files = (os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists())
        assert sum(file.startswith(str(tmp_path)) for file in files) <= 3


@pytest.mark.slow
def test_a_process_that_ends_without_closing_its_store_says_nothing_and_leaves_whole_files(tmp_path: Path) -> None:
    code = f"""
import contextlib, torch
from pathlib import Path
from mllm_eval.features.storeshards import HEADER, ShardWriter
from mllm_eval.features.store import FeatureStore
store = FeatureStore(Path({str(tmp_path)!r}), (3, 4), 5)
store.put_rows({names(2)!r}, torch.zeros(2, 13, 5))
def interrupted(*_): raise KeyboardInterrupt
ShardWriter.append = interrupted
with contextlib.suppress(KeyboardInterrupt):
    store.put_rows({names(5)[2:]!r}, torch.zeros(3, 13, 5))
assert [path.stat().st_size for path in store.folder.glob("*.safetensors")] == [HEADER + 5 * 260]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "" and [path.stat().st_size for path in tmp_path.glob("*.safetensors")] == [HEADER + 2 * 260]


def test_memory_of_a_batch_is_taken_over_only_when_nobody_has_it(tmp_path: Path) -> None:
    patches, summaries = random_features(4)
    store = make_store(tmp_path)
    store.put_many(names(4), patches, summaries)
    first, second = store.get_many(names(4)[:2]), store.get_many(names(4)[2:])
    place, part = first.data_ptr(), first[1, 0]
    del first
    third = store.get_many(names(4)[2:])
    assert torch.equal(part, patches[1, 0]) and torch.equal(second, patches[2:]) and torch.equal(third, patches[2:])
    del part
    assert store.get_many(names(4)[1:3]).data_ptr() == place


def test_a_store_of_an_earlier_version_is_said_once_and_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "1-a.rows").write_bytes(bytes(520))
    (tmp_path / "1-a.index").write_bytes(b"mllmfea1" + bytes(112))
    store = make_store(tmp_path)
    assert store.missing(names(2)) == names(2)
    (told,) = [record.getMessage() for record in caplog.records]
    assert "earlier version" in told and "features gc" in told


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_reduction_finds_what_is_not_finite_before_anything_leaves_its_device(
    dtype: torch.dtype, value: float, tmp_path: Path
) -> None:
    store = make_store(tmp_path, str(dtype).removeprefix("torch."))
    patches, summaries = (one.to(dtype) for one in random_features(2))

    class Whole(TorchDispatchMode):
        seen: ClassVar[list[str]] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if any(isinstance(one, torch.Tensor) and one.numel() >= 2 * 13 * 5 for one in args):
                self.seen.append(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    Whole.seen.clear()
    with Whole():
        store.as_rows(patches, summaries)
    assert Whole.seen == ["aminmax"]
    for at in (0, 64):
        rows = torch.cat([patches.flatten(1, 2), summaries[:, None]], 1).flatten(1)
        rows[1, at] = value
        rows = rows.view(2, 13, 5)
        with pytest.raises(UserError, match="not finite"):
            store.as_rows(rows[:, :-1].view(2, 3, 4, 5), rows[:, -1])


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    patches, summaries = random_features(1)
    patches[0, 0, 0, 0] = 1e6
    make_store(tmp_path / "wide").put_many(names(1), patches, summaries)
    with pytest.raises(UserError, match="not finite as float16"):
        make_store(tmp_path / "narrow", "float16").put_many(names(1), patches, summaries)
    with pytest.raises(UserError, match="dtype 'int8'"):
        make_store(tmp_path, "int8")


def test_the_key_holds_what_decides_a_feature_and_not_the_name(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "weights")
    root = tmp_path / "features"

    def folder(digest: str = "d", dtype: str = "float32", **changes: Any) -> Path:
        return FeatureStore.of(encoder.model_copy(update=changes), digest, dtype, root).folder

    squashed = encoder.preprocessing.model_copy(update={"mode": "squash"})
    others = [
        folder("e"),
        folder(dtype="float16"),
        folder(feature_layer=-2),
        folder(norm=False),
        folder(summary="mean"),
        folder(preprocessing=squashed),
    ]
    assert len({folder(), *others}) == 7
    assert folder(name="another") == folder()


# ---- extraction ----
def refs(indices: range, loaded: list[int] | None = None) -> list[ImageRef]:
    def ref(index: int) -> ImageRef:
        def load() -> Image.Image:
            if loaded is not None:
                loaded.append(index)
            return make_image(index)

        return ImageRef(hashlib.sha256(make_image(index).tobytes()).hexdigest(), load)

    return [ref(index) for index in indices]


def test_extraction_stores_what_the_encoder_gives(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "weights")
    model = load_encoder_model(encoder)
    store = FeatureStore.of(encoder, "d", root=tmp_path)
    seen: list[tuple[int, int]] = []
    assert extract(model, refs(range(5)), store, lambda done, todo: seen.append((done, todo)), batch=2) == 5
    assert seen == [(2, 5), (4, 5), (5, 5)]
    pixels = torch.from_numpy(np.stack([model.preprocess(make_image(index)) for index in range(5)]))
    (expected,) = model(pixels)
    asked = [ref.sha256 for ref in refs(range(5))]
    torch.testing.assert_close(store.get_many(asked), expected.patches)
    torch.testing.assert_close(store.summaries(asked), expected.summary)


def test_an_image_is_decoded_once_ever(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "weights")
    model = load_encoder_model(encoder)
    loaded: list[int] = []
    for images in (refs(range(4), loaded), refs(range(2, 6), loaded) * 2):
        extract(model, images, FeatureStore.of(encoder, "d", root=tmp_path))
    assert sorted(loaded) == [0, 1, 2, 3, 4, 5]


def test_features_do_not_depend_on_what_was_missing(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "weights")
    model = load_encoder_model(encoder)
    whole = FeatureStore.of(encoder, "d", root=tmp_path / "whole")
    pieces = FeatureStore.of(encoder, "d", root=tmp_path / "pieces")
    extract(model, refs(range(11)), whole, batch=4)
    for images in (refs(range(6, 7)), refs(range(3, 9)), refs(range(11))):
        extract(model, images, pieces, batch=4)
    asked = [ref.sha256 for ref in refs(range(11))]
    assert torch.equal(whole.get_many(asked), pieces.get_many(asked))


def broken_ref() -> ImageRef:
    def load() -> Image.Image:
        raise UserError("images/7.png: cannot be decoded")

    return ImageRef("f" * 64, load)


def test_a_broken_image_loses_nothing_and_can_be_left_out(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "weights")
    model = load_encoder_model(encoder)
    store = FeatureStore.of(encoder, "d", root=tmp_path)
    images = [*refs(range(4)), broken_ref(), *refs(range(4, 6))]
    with pytest.raises(UserError, match=r"images/7\.png"):
        extract(model, images, store, batch=2)
    assert len(store) == 4
    left_out: list[str] = []
    note: OnBroken = lambda ref, problem: left_out.append(f"{ref.sha256[:3]} {problem}")  # noqa: E731
    extract(model, images, store, on_broken=note, batch=2)
    assert len(store) == 6 and left_out == ["fff images/7.png: cannot be decoded"]


def test_features_load_the_encoder_only_when_something_is_missing(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "weights")
    loads: list[int] = []

    def load() -> Any:
        loads.append(1)
        return load_encoder_model(encoder)

    source = Features(FeatureStore.of(encoder, "d", root=tmp_path), load)
    first = source(refs(range(3)))
    assert [one.shape for one in first] == [(4, 4, 32)] * 3 and len(loads) == 1
    again = Features(FeatureStore.of(encoder, "d", root=tmp_path), load)
    assert torch.equal(torch.stack(again(refs(range(3)))), torch.stack(first)) and len(loads) == 1
    with pytest.raises(UserError, match=r"images/7\.png"):
        again([broken_ref()])


def test_a_runs_encoder_goes_where_models_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    encoder = make_encoder(tmp_path / "weights")
    run: Any = SimpleNamespace(
        encoder=encoder,
        weights={"encoder": "e" * 64},
        recipe=SimpleNamespace(dtype="bfloat16", features_dtype=None, kernels="auto"),
    )
    # No GPU is needed to see that the encoder is moved: `meta` is a device as well.
    monkeypatch.setattr("mllm_eval.features.source.device", lambda: "meta")
    weight = next(Features.of(run).model.parameters())
    assert (weight.device.type, weight.dtype) == ("meta", torch.bfloat16)
