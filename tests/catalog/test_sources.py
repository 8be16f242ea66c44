"""Recipes that are named after a source show images and ask as that source does."""

from __future__ import annotations

import pytest

from mllm_eval.catalog import TokenGrid, load_encoder, load_recipe
from mllm_eval.prompts import render


def test_recipes_say_what_their_sources_show() -> None:
    clip, crop = load_encoder("openai-clip-l-336"), load_encoder("openai-clip-l-336@crop")
    cambrian, paper = load_recipe("cambrian"), load_recipe("webssl-paper")
    assert TokenGrid.of(cambrian, clip) == TokenGrid(24, row_token=True, hide=True)
    # A picture that is cut to a square has no padding.
    assert TokenGrid.of(cambrian, crop) == TokenGrid(24, row_token=True, hide=False)
    assert TokenGrid.of(paper, clip) == TokenGrid.of(load_recipe("webssl-metamorph"), clip) == TokenGrid(24)
    assert TokenGrid.of(load_recipe("metamorph"), clip) == TokenGrid(8)
    assert TokenGrid.of(load_recipe("webssl-cambrian"), clip) == TokenGrid.of(cambrian, clip)
    open_fields = {"images", "final_norm", "l2_normalize", "row_token", "padding", "dummy_image", "template"}
    assert open_fields <= set(paper.assumed())
    assert open_fields <= set(load_recipe("webssl-metamorph").assumed())


def test_the_recipe_of_metamorph_reads_every_encoder_as_metamorph_reads_siglip() -> None:
    recipe = load_recipe("metamorph")
    siglip = load_encoder("siglip-so400m-384", recipe)
    assert siglip.preprocessing == load_encoder("siglip-so400m-384@squash").preprocessing
    assert (siglip.norm, siglip.feature_layer, siglip.name) == (False, -1, "siglip-so400m-384")
    assert load_encoder("siglip2-so400m-224", recipe).preprocessing.interpolation == "bilinear"
    # Who names a variant of an encoder gets it.
    assert load_encoder("siglip-so400m-384@crop", recipe).preprocessing.mode == "crop"
    assert render("llama_3_metamorph", "Is it?", 1) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n<image>\nIs it?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n"
    )


def test_what_a_recipe_says_of_the_encoder_is_part_of_its_hash() -> None:
    paper, other = load_recipe("webssl-paper"), load_recipe("webssl-metamorph")
    for field in ("images", "final_norm", "l2_normalize", "row_token", "padding", "dummy_image"):
        # A recipe that leaves it to the encoder, as all did before there was the field, keeps its hash.
        assert field not in load_recipe("mini").identity() and field not in paper.identity()
    assert {"images", "final_norm", "l2_normalize"} <= other.identity().keys()
    assert {"row_token", "padding", "dummy_image"} <= load_recipe("webssl-cambrian").identity().keys()


@pytest.mark.parametrize("name", ["webssl-cambrian", "webssl-metamorph"])
def test_a_variant_of_the_papers_recipe_differs_in_what_the_paper_leaves_open_alone(name: str) -> None:
    paper, variant = load_recipe("webssl-paper"), load_recipe(name)
    assert variant.hash != paper.hash and variant.llm == paper.llm

    def flat(value: object, above: str = "") -> dict[str, object]:
        if not isinstance(value, dict):
            return {above: value}
        found = (flat(inner, f"{above}.{part}".strip(".")) for part, inner in value.items())
        return {key: one for inner in found for key, one in inner.items()}

    said, own = flat(paper.identity()), flat(variant.identity())
    changed = {key for key in said.keys() | own.keys() if said.get(key) != own.get(key)} - {"name"}
    # Fields of a list stand in one value here: a stage's `data`.
    opened = {key for key in changed for field in variant.assumed() if field == key or field.startswith(f"{key}.")}
    assert changed and changed == opened
    assert not {"tokens", "stage1.lr", "stage1.batch", "stage2.lr", "stage2.batch"} & changed


def test_the_template_of_metamorph_passes_over_a_rows_own_system_turn() -> None:
    recipe = load_recipe("metamorph")
    assert [data.system for data in recipe.stage2.data] == ["template"]
