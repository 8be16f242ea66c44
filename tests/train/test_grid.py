"""What the LLM sees of an image: row tokens, and the padding that is hidden; held against the original's ways."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from tasks import answer
from tiny_models import make_conversations, make_encoder, make_image, make_llm, make_recipe

from mllm_eval.adapters import load_encoder_model
from mllm_eval.adapters.projector import Projector
from mllm_eval.answers import Journal
from mllm_eval.catalog import TokenGrid
from mllm_eval.data.samples import ImageRef, Sample
from mllm_eval.decoding import Decoding, decode, size_of
from mllm_eval.errors import UserError
from mllm_eval.features import Features
from mllm_eval.generate import Limits
from mllm_eval.model import VLM, assemble, load_checkpoint, load_llm_model, load_tokenizer, save_checkpoint
from mllm_eval.plan import make_plan
from mllm_eval.prompts import render
from mllm_eval.run import Run
from mllm_eval.train import train
from mllm_eval.train.batches import Collator, RowShape
from mllm_eval.train.stagerows import tokenised

SIZES = [(640, 480), (480, 640), (500, 500), (800, 1796), (1796, 800), (49, 49), (1000, 30), (30, 1000), (333, 251)]


def masked(size: tuple[int, int], edge: int, row_token: bool) -> NDArray[np.bool_]:
    """The training's way, in words of its own: a mask over the whole grid, row tokens in its last column."""
    width, height = size
    mask = np.ones((edge, edge + row_token), np.bool_)
    if width > height:
        rim = (edge - int(height * (edge / width))) // 2
        # A row that is hidden hides its row token.
        mask[:rim], mask[edge - rim :] = False, False
    else:
        rim = (edge - int(width * (edge / height))) // 2
        # A column that is hidden leaves the row tokens behind it.
        mask[:, :rim], mask[:, edge - rim : edge] = False, False
    return mask


@pytest.mark.parametrize("row_token", [True, False])
@pytest.mark.parametrize("edge", [24, 9, 8])
def test_what_is_shown_is_what_the_originals_mask_leaves(edge: int, row_token: bool) -> None:
    grid = TokenGrid(edge, row_token, hide=True)
    chance = np.random.default_rng(0)
    sizes = [*SIZES, *(tuple(pair) for pair in chance.integers(100, 1000, (300, 2)).tolist())]
    for size in sizes:
        mask = masked(size, edge, row_token)
        if not mask[:, :edge].any():
            continue
        assert grid.shown(grid.kept(size)) == np.flatnonzero(mask).tolist(), size
        assert grid.count(grid.kept(size)) == mask.sum()
    found = grid.all_kept(np.array([*sizes, (0, 0)], np.int32))
    assert found.tolist() == [*(list(grid.kept(size)) for size in sizes), [edge, edge]]


def test_positions_of_the_shapes_that_papers_speak_of() -> None:
    grid = TokenGrid(24, row_token=True, hide=True)
    shapes = {None: 600, (336, 336): 600, (800, 600): 450, (600, 800): 456, (800, 1796): 264}
    assert {size: grid.count(grid.kept(size)) for size in shapes} == shapes
    assert TokenGrid(24).positions == TokenGrid(24, hide=True).positions == 576
    # Where the original would show nothing at all of a hair, its middle is shown.
    assert grid.kept((6000, 100)) == grid.kept((2400, 110)) == (2, 24)


def test_a_plan_counts_row_tokens_and_says_that_it_hides_nothing() -> None:
    cambrian, paper = (make_plan("openai-clip-l-336", recipe) for recipe in ("cambrian", "webssl-paper"))
    read, bare = (plan.steps[-1].tokens for plan in (cambrian, paper))
    images = sum(line["images"] for line in cambrian.benchmarks)
    assert read - bare == 24 * images
    assert any("padding" in said for said in cambrian.assumed) and not any("padding" in said for said in paper.assumed)


def test_features_are_of_length_one_before_the_projector() -> None:
    torch.manual_seed(0)
    plain, scaled = Projector(8, 16, 9), Projector(8, 16, 9, l2_normalize=True)
    scaled.load_state_dict(plain.state_dict())
    features = torch.randn(2, 4, 4, 8)
    # Resized before they are scaled, not after.
    seen = torch.nn.functional.interpolate(features.permute(0, 3, 1, 2), size=(3, 3), mode="bilinear")
    unit = (seen / seen.square().sum(1, keepdim=True).sqrt()).permute(0, 2, 3, 1)
    torch.testing.assert_close(scaled(features), plain.layers(unit.flatten(1, 2)))


# ---- the model ----
GRID = TokenGrid(3, row_token=True, hide=True)


def make_model(folder: Path, **changes: Any) -> tuple[VLM, Any]:
    """A model with row tokens that hides the padding, and its encoder."""
    encoder = make_encoder(folder / "encoder")
    llm = make_llm(folder / "llm")
    settings = {"standardize": False, "row_token": True, "padding": "hide", **changes}
    recipe = make_recipe(folder / "none.jsonl", folder, **settings)
    torch.manual_seed(1)
    model = assemble(encoder, recipe, load_llm_model(llm), load_tokenizer(llm, recipe.template))
    return model.eval(), load_encoder_model(encoder)


def spread(model: VLM, prompt: str, *counts: int) -> torch.Tensor:
    image = model.config.image_token_id
    left = iter(counts)
    ids = model.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return torch.tensor([[token for one in ids for token in ([image] * next(left) if one == image else [one])]])


def test_leaving_positions_out_is_masking_them_and_counting_without_them(tmp_path: Path) -> None:
    model, _ = make_model(tmp_path)
    features = torch.randn(1, 4, 4, 32)
    for size in ((40, 20), (20, 40), (40, 40)):
        kept = torch.tensor([GRID.kept(size)])
        cut = spread(model, "See<image>and tell", GRID.count(GRID.kept(size)))
        whole = spread(model, "See<image>and tell", 12)
        shown = np.ones(whole.shape[1], np.bool_)
        shown[3:15] = masked(size, 3, True).flatten()
        mask = torch.from_numpy(shown)[None].long()
        labels = torch.full_like(whole, -100)
        labels[0, -4:] = whole[0, -4:]
        loss = model(input_ids=whole, features=features, labels=labels, attention_mask=mask,
                     position_ids=(mask.cumsum(1) - 1).clamp(min=0)).loss  # fmt: skip
        own = model(input_ids=cut, features=features, kept=kept, labels=labels[:, shown]).loss
        torch.testing.assert_close(own, loss, atol=1e-5, rtol=1e-5)


def test_each_row_ends_with_the_row_token(tmp_path: Path) -> None:
    model, _ = make_model(tmp_path)
    bare = Projector(32, 64, 9)
    bare.load_state_dict({k: v for k, v in model.projector.state_dict().items() if k != "row_token"})
    features = torch.randn(2, 4, 4, 32)
    rows = model.embed(features).unflatten(1, (3, 4))
    torch.testing.assert_close(rows[:, :, :3].flatten(1, 2), bare(features))
    assert torch.equal(rows[:, :, 3], model.projector.row_token.expand(2, 3, -1))
    ids = spread(model, "a<image>b<image>", 4, 12)
    fused = model.fuse(ids, features, torch.tensor([[1, 3], [3, 3]]))
    assert torch.equal(fused[0, 1:5], rows[0, 1]) and torch.equal(fused[0, 6:], rows[1].flatten(0, 1))
    with pytest.raises(ValueError, match="16 image positions in the prompts, 12 visual tokens"):
        model.fuse(ids, features, torch.tensor([[1, 3], [2, 3]]))


@pytest.mark.slow
def test_the_auto_classes_show_what_the_model_was_trained_on(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, encoder = make_model(tmp_path)
    save_checkpoint(model, tmp_path / "checkpoint", encoder)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "checkpoint")
    assert load_checkpoint(tmp_path / "checkpoint").grid == loaded.grid == GRID
    processor = AutoProcessor.from_pretrained(tmp_path / "checkpoint")
    images = [make_image(1, (60, 20)), make_image(2, (20, 41)), make_image(3)]
    prompts = [render("llama_3_meta", text, 1) for text in ("What?", "How many of them?", "Where is it?")]
    inputs = processor(images=images, text=prompts)
    assert inputs["kept"].tolist() == [[1, 3], [3, 1], [3, 3]]
    generated = loaded.generate(**inputs, max_new_tokens=5, do_sample=False)
    for at, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        kept = GRID.kept(image.size)
        features = encoder(torch.from_numpy(encoder.preprocess(image))[None])[0].patches
        fused = model.fuse(spread(model, prompt, GRID.count(kept)), features, torch.tensor([kept]))
        seen = torch.ones(fused.shape[:2])
        plain = model.llm.generate(inputs_embeds=fused, attention_mask=seen, max_new_tokens=5, do_sample=False)
        assert generated[at, inputs["input_ids"].shape[1] :].tolist() == plain[0].tolist()


# ---- training ----
@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLLM_EVAL_RESULTS", str(tmp_path / "results"))
    return tmp_path


def make_run(home: Path, **changes: Any) -> Run:
    data, images = make_conversations(home / "data")
    # Of ten pictures, broad, tall and square ones.
    for number in range(10):
        make_image(number, [(60, 20), (20, 60), (28, 28)][number % 3]).save(images / f"{number}.png")
    settings = {"row_token": True, "padding": "hide", **changes}
    return Run(make_encoder(home / "encoder"), make_recipe(data, images, **settings), make_llm(home / "llm"), 3)


@pytest.mark.parametrize("features", ["store", "live"])
def test_training_reads_what_is_shown_and_plans_what_it_reads(features: str, home: Path) -> None:
    stage = {"features": features}
    run = make_run(home, standardize=False, stage1=stage, stage2=stage)
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    data = tokenised(run, run.recipe.stage1, tokenizer)
    assert data.sizes is not None and data.sizes[0].tolist() == [60, 20]
    image = tokenizer.convert_tokens_to_ids("<image>")
    collator = Collator(data, run.encoder.preprocessing, RowShape(image, 12, tokenizer.pad_token_id, 600, GRID))
    batch = collator([0, 1, 2, 5])
    assert batch["kept"].tolist() == [[1, 3], [3, 1], [3, 3]]
    assert (batch["input_ids"] == image).sum(1).tolist() == [4, 6, 12, 0]
    lengths = (data.lengths(12) - data.hidden(GRID)).tolist()
    assert [len(collator.row(row)[0]) for row in range(24)] == lengths
    assert lengths[0] < data.lengths(12)[0]
    # The longest length counts what is hidden, too, as the original cuts before it masks.
    limit = int(data.lengths(12)[0]) - 2
    collator = Collator(data, run.encoder.preprocessing, RowShape(image, 12, tokenizer.pad_token_id, limit, GRID))
    assert len(collator.row(0)[0]) == limit - 8


def test_rows_of_text_leave_room_for_a_dummy_image_where_the_original_puts_one(home: Path) -> None:
    run = make_run(home, standardize=False, dummy_image=True)
    tokenizer = load_tokenizer(run.llm, run.recipe.template)
    data = tokenised(run, run.recipe.stage2, tokenizer)
    images = np.diff(data.image_offsets)
    text, shown = int(np.flatnonzero(images == 0)[0]), int(np.flatnonzero(images)[0])
    limit = int(data.lengths(12)[text]) + 5
    facts = tokenizer.convert_tokens_to_ids("<image>"), 12, tokenizer.pad_token_id, limit, GRID
    with_room, plain = (
        Collator(data, run.encoder.preprocessing, RowShape(*facts, dummy)) for dummy in (run.recipe.dummy_positions, 0)
    )
    # The original's way: a mark goes in behind the first tokens, becomes 12 that are masked, and all is cut.
    ids = plain.row(text)[0].tolist()
    assert len(ids) == limit - 5
    padded = [*ids[:3], *[-1] * 12, *ids[3:]][:limit]
    assert with_room.row(text)[0].tolist() == [token for token in padded if token >= 0] == ids[: limit - 12]
    assert with_room.row(shown)[0].tolist() == plain.row(shown)[0].tolist()
    # A row whose answer begins behind that is not used.
    first = int(data.first_target[text])
    assert text in data.usable(12, data.limits(first + 1, 0)) and text not in data.usable(
        12, data.limits(first + 12, 12)
    )
    assert text in data.usable(12, data.limits(first + 13, 12))


@pytest.mark.slow
def test_row_tokens_are_learnt_and_answers_are_those_of_the_reference(home: Path) -> None:
    run = make_run(home)
    train(run)
    projector = load_file(run.stage_dir(1) / "projector.safetensors")
    model = load_checkpoint(run.checkpoint)
    assert model.grid == GRID and projector["row_token"].shape == (64,)
    assert not torch.equal(model.projector.row_token, projector["row_token"])
    features = Features.of(run)
    answers: dict[str, list[str]] = {}
    for engine, limits in (("reference", None), ("batched", None), ("batched", Limits(rows=3, pass_tokens=64))):
        journal = Journal(home / f"{engine}{limits is None}.jsonl")
        found = answer(model, questions(), run.recipe.template, features, 8, journal, engine=engine, limits=limits)
        assert all(one.state == "ok" for one in found)
        answers[f"{engine} {limits}"] = [one.text for one in found]
        # Positions are counted as they are shown.
        counts = {one.id: one.tokens_in for one in found}
        assert counts["0-0"] + 2 == counts["1-0"] and counts["0-0"] + 8 == counts["2-0"]
    assert len({tuple(texts) for texts in answers.values()}) == 1


def questions() -> list[Sample]:
    shapes = [(60, 20), (20, 60), (28, 28), (50, 30), (30, 50)]
    found = []
    for number in range(10):
        image = make_image(number, shapes[number % 5])
        ref = ImageRef(f"{number:064d}", lambda image=image: image)  # type: ignore[misc]
        found += [
            Sample("b", f"{number}-{each}", (ref,), "Which? " * each + "What?", "", "", "", {})
            for each in range(1 + number % 3)
        ]
    two = (found[0].images[0], found[5].images[0])
    return [*found, Sample("b", "two", two, "Both?", "", "", "", {}), Sample("b", "none", (), "None?", "", "", "", {})]


def test_a_broken_image_fails_its_samples_alone(home: Path) -> None:
    model, encoder = make_model(home)

    def broken() -> Any:
        raise UserError("file row 3: no image")

    asked = questions()
    asked[0] = Sample("b", asked[0].id, (ImageRef("f" * 64, broken),), "What?", "", "", "", {})

    def features(refs: list[ImageRef]) -> list[torch.Tensor]:
        return [encoder(torch.from_numpy(encoder.preprocess(ref.load()))[None])[0].patches[0] for ref in refs]

    found = answer(model, asked, "llama_3_meta", features, 4, Journal(home / "a.jsonl"))
    assert [one.state for one in found] == ["error", *["ok"] * (len(asked) - 1)]


# ---- sizes ----
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [None, 3, 6, 8])
@pytest.mark.parametrize("upright", [True, False])
def test_the_size_of_a_header_is_that_of_the_decoded_image(form: str, orientation: int | None, upright: bool) -> None:
    image, kept = make_image(1, (30, 20)), io.BytesIO()
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    image.save(kept, form, exif=exif)
    how = Decoding(upright)
    assert size_of(kept.getvalue(), how) == decode(kept.getvalue(), "a", how).size
