"""Images that cannot be decoded: their rows teach nothing, are counted and listed, and too many of them stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peak_memory import peak
from tiny_models import make_conversations, make_encoder, make_llm, make_recipe
from tiny_training import log_of, make_run

from mllm_eval.errors import UserError
from mllm_eval.features import Features
from mllm_eval.model import assemble, load_llm_model, load_tokenizer
from mllm_eval.run import Run
from mllm_eval.train import encoding, train
from mllm_eval.train.batches import Collator, RowShape
from mllm_eval.train.encoding import encode, missing, refs_of
from mllm_eval.train.rowtokens import ImageReading, Images, TokenisedSet, tokenise
from mllm_eval.train.stagerows import conversations_of
from mllm_eval.train.unreadable import Unreadable


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    return tmp_path


def run_with(folder: Path, budget: int, live: bool, cut: tuple[str, ...] = ("4.png",)) -> Run:
    """A run of one epoch a stage, some of whose images end early; two rows show 4.png, one shows 8.png."""
    data, images = make_conversations(folder / "data")
    for name in cut:
        path = images / name
        path.write_bytes(path.read_bytes()[:300])
    said = {"data": [{"path": str(data), "images": str(images), "skip_broken": budget}]}
    stage = {**said, "features": "live" if live else "store"}
    recipe = make_recipe(data, images, standardize=False, stage1=stage, stage2=stage)
    return Run(make_encoder(folder / "encoder"), recipe, make_llm(folder / "llm"), 3)


def tokenised(run: Run, live: bool) -> TokenisedSet:
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    stage = run.recipe.stage1
    budgets = [data.skip_broken for data in stage.data]
    sets = [conversations_of(data) for data in stage.data]
    return tokenise(sets, tokenizer, "digest", run.recipe.template, budgets, ImageReading(live))


# ---- a whole training ----
@pytest.mark.slow
def test_rows_of_unreadable_images_are_listed_and_the_rest_is_learnt_alike_stored_or_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []
    for live in (False, True):
        home = tmp_path / str(live)
        monkeypatch.setenv("MLLM_EVAL_RESULTS", str(home / "results"))
        run = run_with(home, 2, live)
        train(run)
        for stage in (1, 2):
            folder = run.stage_dir(stage)
            assert json.loads((folder / "left_out.json").read_bytes()) == {"used": 22, "unreadable": 2}
            listed = [json.loads(line) for line in (folder / "left_out.jsonl").read_text().splitlines()]
            path = run.recipe.stage1.data[0].path
            assert [line["row"] for line in listed] == [f"{path}:5", f"{path}:15"]
            assert all(line["why"] == "unreadable" and "4.png" in line["reason"] for line in listed)
        losses.append([line["loss"] for stage in (1, 2) for line in log_of(run, stage)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("live", [False, True])
def test_one_row_too_many_stops_with_one_line(live: bool, home: Path) -> None:
    with pytest.raises(UserError) as refused:
        train(run_with(home, 1, live))
    said = str(refused.value)
    assert "train.jsonl:5: " in said and "4.png: the image can't be decoded" in said and "\n" not in said
    assert "(broken row number 2, `skip_broken` allows 1)" in said
    with pytest.raises(UserError, match=r"4\.png: the image can't be decoded"):
        train(run_with(home, 0, live))


def test_what_is_no_image_at_all_is_found_before_a_live_training(home: Path) -> None:
    run = run_with(home, 2, True, cut=())
    (home / "data" / "images" / "8.png").write_text("<html>404</html>")
    found = tokenised(run, True)
    assert found.left_out == {"broken": 2} and len(found) == 22 and found.broken == (2,)
    # They leave no room for one that is cut short.
    with pytest.raises(UserError, match=r"jsonl:1: .*broken row number 3, `skip_broken` allows 2"):
        Unreadable(home, found).add({int(found.image_of[0]): "0.png: cut short"})


@pytest.mark.slow
def test_a_mended_image_is_read_again(home: Path) -> None:
    run = run_with(home, 0, True)
    broken = home / "data" / "images" / "4.png"
    with pytest.raises(UserError, match=r"train\.jsonl:(5|15)"):
        train(run)
    make_conversations(home / "data")
    assert len(broken.read_bytes()) > 300
    train(run)
    assert not (run.stage_dir(1) / "left_out.json").exists()


# ---- batches ----
@pytest.mark.parametrize("live", [False, True])
def test_an_unreadable_image_takes_the_targets_of_its_row_alone(live: bool, home: Path) -> None:
    run = run_with(home, 2, live)
    data = tokenised(run, live)
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    image = tokenizer.convert_tokens_to_ids("<image>")
    features = Features.of(run)
    number = int(data.image_of[data.image_offsets[4]])
    whole = np.setdiff1d(np.arange(len(data.images)), [number])
    features.fill([] if live else data.refs(whole))
    source = run.encoder.preprocessing if live else features.store
    collator = Collator(data, source, RowShape(image, 9, tokenizer.pad_token_id, 600), () if live else {number})
    batch = collator([0, 4, 5])
    assert [bool((labels != -100).any()) for labels in batch["labels"]] == [True, False, True]
    seen = batch["pixel_values" if live else "features"]
    assert len(seen) == 2 and seen[0].any() and not seen[1].any()
    assert [at for at, _ in batch.get("unreadable", [])] == ([number] if live else [])
    assert "unreadable" not in collator([0, 1])


def test_a_step_without_any_target_has_no_loss_and_no_gradient(home: Path) -> None:
    run = make_run(home)
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    model = assemble(run.encoder, run.recipe, load_llm_model(run.llm), tokenizer)
    ids = torch.full((1, 12), 5)
    ids[0, 1:10] = model.config.image_token_id
    loss = model(
        input_ids=ids,
        features=torch.zeros(1, 4, 4, 32),
        labels=torch.full_like(ids, -100),
        num_items_in_batch=torch.tensor(0),
    ).loss
    loss.backward()
    assert loss == 0 and all(not weight.grad.any() for weight in model.parameters() if weight.grad is not None)


# ---- several processes, and kills ----
def test_processes_that_find_images_share_one_budget_and_a_second_look_counts_nothing_twice(home: Path) -> None:
    data = tokenised(run_with(home, 3, True, cut=()), True)
    one, other = Unreadable(home, data), Unreadable(home, data)
    one.add({0: "0.png: cut short"})
    other.add({0: "0.png: cut short", 1: "1.png: cut short"})
    assert Unreadable(home, data).images == {0, 1} and len(Unreadable(home, data).listed()) == 2
    one.add({7: "7.png: cut short"})
    with pytest.raises(UserError, match="broken row number 4, `skip_broken` allows 3"):
        other.add({5: "5.png: cut short"})
    assert Unreadable(home, data).images == {0, 1, 7}


# ---- size ----
class Lacking:
    """Features that note who is asked for, a store that lacks every image, and none of them kept."""

    def __init__(self) -> None:
        self.store: Any = self
        self.asked = 0

    def missing(self, names: list[str]) -> list[str]:
        return names

    def refresh(self) -> None:
        pass

    def fill(self, refs: list[Any], *_: Any) -> None:
        self.asked += len(refs)


def set_of(folder: Path, images: int) -> TokenisedSet:
    """Rows with an image each, their arrays on disk."""
    names = b"".join(b"%012d.png" % number for number in range(images))
    np.save(folder / f"names{images}.npy", np.frombuffer(names, np.uint8))
    digests = np.random.default_rng(0).integers(0, 256, (images, 32), dtype=np.uint8)
    np.save(folder / f"digests{images}.npy", digests)
    mapped = (np.load(folder / f"{kind}{images}.npy", mmap_mode="r") for kind in ("names", "digests"))
    names_of, digests_of = mapped
    shown = Images(names_of, np.arange(0, 16 * images + 1, 16), digests_of)
    rows = np.arange(images + 1)
    return TokenisedSet(
        rows, rows > 0, rows, rows, rows[:-1], rows[:-1], np.zeros((images, 2), np.int64), shown, {},
        folder / "none", (folder,), (0,), (0,), {}, folder / "none",
    )  # fmt: skip


@pytest.mark.slow
def test_memory_of_encoding_does_not_grow_with_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "CHUNK", 1000)

    def encoded(images: int) -> int:
        data, numbers = set_of(tmp_path, images), np.arange(images)
        unreadable = Unreadable(tmp_path, data)

        def work() -> None:
            features = Lacking()
            encode(data, numbers, features, unreadable, lambda _: None)  # type: ignore[arg-type]
            assert features.asked == images

        return peak(work)

    assert encoded(20_000) < 1.1 * encoded(5_000)


def test_images_are_counted_once_and_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "CHUNK", 7)
    data = set_of(tmp_path, 50)
    sets = [(data, np.arange(30)), (data, np.arange(20, 50))]
    assert missing(Lacking(), sets) == 50  # type: ignore[arg-type]
    names = data.names(np.array([31, 4]))
    assert data.find(names).tolist() == [4, 31] and data.find(["ab" * 32]).tolist() == []
    assert [ref.sha256 for ref in refs_of(sets, names)] == names


@pytest.mark.slow
def test_chunks_of_images_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    for chunk in (1000, 3):
        monkeypatch.setattr(encoding, "CHUNK", chunk)
        monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / str(chunk)))
        told: list[tuple[int, int]] = []
        run = make_run(tmp_path)
        train(run, lambda done, total, told=told: told.append((done, total)))  # type: ignore[misc]
        assert [done for done, _ in told] == sorted(done for done, _ in told) and told[-1][0] == told[-1][1]
        losses.append([line["loss"] for stage in (1, 2) for line in log_of(run, stage)])
    assert losses[0] == losses[1]
