"""Every encoder's yaml, held against transformers' own classes: its count, its shapes, its contract."""

from __future__ import annotations

import csv
import json
import re
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import make_image

from mllm_eval.adapters import family
from mllm_eval.adapters.base import EncoderModel
from mllm_eval.adapters.preprocessing import to_pixels
from mllm_eval.catalog import Encoder, Preprocessing, load_encoder, names
from mllm_eval.catalog.architecture import FORMS
from mllm_eval.errors import UserError
from mllm_eval.storage import SHIPPED

REFERENCE = SHIPPED / "configs" / "reference"
ENCODERS = {name: load_encoder(name) for name in names("encoders")}
DESCRIBED = [name for name, encoder in ENCODERS.items() if encoder.architecture is not None]


def rows(file: str) -> list[dict[str, str]]:
    with open(REFERENCE / file, newline="") as lines:
        return list(csv.DictReader(lines))


ZOO = {row["name"]: row for row in rows("model_zoo.csv")}
# The names of the second table are prose.
COMPARED = {
    "OpenAI CLIP ViT-L/14-336": ["openai-clip-l-336"],
    "MetaCLIP ViT-L/14": ["metaclip-l-224"],
    "MetaCLIP ViT-H/14": ["metaclip-h-224"],
    "MetaCLIP ViT-G/14 (bigG)": ["metaclip-g-224"],
    "SigLIP SO400M/14 @224": ["siglip-so400m-224"],
    "SigLIP SO400M/14 @384": ["siglip-so400m-384"],
    "SigLIP2 SO400M/14 @224": ["siglip2-so400m-224"],
    "SigLIP2 SO400M/14 @384": ["siglip2-so400m-384"],
    "DINOv2 ViT-g/14": ["dinov2-g-224", "dinov2-g-378", "dinov2-g-518"],
    "MAE ViT-H/14": ["mae-h-224"],
    "I-JEPA ViT-H/14 (IN-22k)": ["ijepa-h-224"],
}


def shape_of(encoder: Encoder) -> tuple[Any, ...]:
    return encoder.family, encoder.patch, encoder.width, encoder.depth, encoder.architecture


def example(shape: tuple[Any, ...]) -> Encoder:
    return next(encoder for encoder in ENCODERS.values() if shape_of(encoder) == shape)


def empty(encoder: Encoder) -> Any:
    """The transformers model that the yaml describes, without memory."""
    kind: Any = family(encoder.family)
    with torch.device("meta"):
        return kind.transformers_class()(kind.config_of(encoder), **kind.options)


@lru_cache
def noise() -> torch.Tensor:
    """More numbers than the largest tensor has; models look at parts of it, which costs nothing."""
    return torch.empty(50_000_000).uniform_(-0.03, 0.03, generator=torch.Generator().manual_seed(0))


def looking_at_noise(model: Any) -> Any:
    """A model with weights at random, norms with scale 1 and shift 0. Tensors overlap in memory."""
    state = {}
    for index, (name, tensor) in enumerate(model.state_dict().items()):
        if name in dict(model.named_buffers()):
            state[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
        elif tensor.ndim == 1 and name.endswith(("weight", "bias")):
            state[name] = torch.full(tensor.shape, float(name.endswith("weight")))
        else:
            state[name] = noise()[index * 997 :][: tensor.numel()].view(tensor.shape)
    model.load_state_dict(state, assign=True)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer_of(module, name, buffer))
    return model


def buffer_of(module: Any, name: str, empty: torch.Tensor) -> torch.Tensor:
    """A buffer as the class computes it."""
    if name == "position_ids":
        return torch.arange(empty.numel()).view(empty.shape)
    if name.endswith("inv_freq"):
        if hasattr(module, "compute_axial_rope_parameters"):
            frequencies, _ = module.compute_axial_rope_parameters(module.config)
            return frequencies
        return 1 / module.base ** torch.arange(0, 1, 4 / module.head_dim)
    # RADIO's own mean and std, and which class tokens it sums up with: nothing here depends on them.
    assert name in ("norm_mean", "norm_std", "summary_idxs")
    return torch.ones_like(empty, device="cpu") if name == "norm_std" else torch.zeros_like(empty, device="cpu")


@lru_cache
def counted(shape: tuple[Any, ...]) -> int:
    """Parameters of the true architecture."""
    return sum(parameter.numel() for parameter in empty(example(shape)).parameters())


@lru_cache(maxsize=1)
def one_block(shape: tuple[Any, ...]) -> Any:
    """The architecture with one block and every other size as it is."""
    return looking_at_noise(empty(example(shape).model_copy(update={"depth": 1})))


def shallow(encoder: Encoder) -> EncoderModel:
    """The yaml's encoder with one block, its facts checked exactly."""
    values = encoder.model_dump() | {"depth": 1, "params": 0, "feature_layer": -1}
    facts = Encoder.model_validate(values)
    model = family(encoder.family)(facts, one_block(shape_of(encoder)))
    assert sum(parameter.numel() for parameter in model.parameters()) == facts.params
    return model


# Equal architectures lie side by side, so that each is made once.
BY_SHAPE = sorted(DESCRIBED, key=lambda name: str(shape_of(ENCODERS[name])))


@pytest.mark.slow
@pytest.mark.parametrize("name", DESCRIBED)
def test_parameters_are_those_of_the_class(name: str) -> None:
    encoder = ENCODERS[name]
    assert encoder.params == counted(shape_of(encoder))


@pytest.mark.parametrize("name", list(ZOO))
def test_the_zoo_is_described_as_it_was_released(name: str) -> None:
    row, encoder = ZOO[name], ENCODERS[name]
    shape = encoder.architecture
    assert shape is not None
    assert f"{encoder.params / 1e9:.4f}" == row["params_B"]
    said = [encoder.patch, encoder.preprocessing.size, encoder.grid**2, encoder.width, encoder.depth]
    said += [shape.heads, shape.hidden, shape.native]
    keys = ("patch", "resolution", "patch_tokens", "embed_dim", "depth", "heads", "ffn_hidden", "resolution")
    assert said == [int(row[key]) for key in keys]
    assert shape.ffn == row["ffn"].lower()
    assert FORMS[encoder.family].prefix == int(row["cls_token"])
    assert {"Web-DINO": "dinov2", "Web-MAE": "vit"}[row["family"]] == encoder.family
    assert (encoder.weights.repo or "(no HF id; PyTorch .pth only)") == row["hf_id"]
    assert (encoder.weights.revision or "") == row["hf_revision_seen"]
    assert encoder.weights.repo or encoder.weights.url == row["weights_url"]
    assert (encoder.facts.pretraining_data, encoder.facts.samples_seen) == (row["pretrain_data"], row["samples_seen"])
    assert list(encoder.preprocessing.mean) == [float(value) for value in row["mean"].split()]
    assert list(encoder.preprocessing.std) == [float(value) for value in row["std"].split()]


@pytest.mark.parametrize("row", rows("compared_encoders.csv"), ids=lambda row: row["name"])
def test_the_compared_encoders_are_described_as_their_sources_say(row: dict[str, str]) -> None:
    tokens = []
    for name in COMPARED[row["name"]]:
        encoder = ENCODERS[name]
        tokens.append(str(encoder.grid**2))
        assert (encoder.patch, encoder.width, encoder.depth) == tuple(
            int(row[key]) for key in ("patch", "embed_dim", "depth")
        )
        assert FORMS[encoder.family].prefix == int(row["cls_token"])
        assert (encoder.weights.repo or "") == row["hf_id"]
        assert list(encoder.preprocessing.mean) == [float(value) for value in row["mean"].split()[:3]]
        assert encoder.variants["squash"].interpolation in (None, *re.findall("bilinear|bicubic", row["resample"]))
    assert "/".join(tokens) == row["patch_tokens"]


def published_rows() -> set[str]:
    known = {f"Table {row['table']}: {row['model']}" for row in rows("vqa_all.csv")}
    known |= {f"Table 2: {row['model']}, {row['pct_of_MC2B']}" for row in rows("filtered_table2.csv")}
    known |= {f"Table 3: {row['model']} @{row['res']}" for row in rows("sota_table3.csv")}
    study = rows("cambrian_study_frozen_1p2M_737K.csv")
    return known | {f"Cambrian study: {row['model']} {row['architecture']}" for row in study}


def test_published_rows_exist_and_belong_to_one_encoder_each() -> None:
    named = [row for name in DESCRIBED for row in ENCODERS[name].facts.published]
    assert set(named) <= published_rows()
    assert len(named) == len(set(named))
    # All of Table 14 has weights, and so has every row of Table 3.
    for table in ("Table 14:", "Table 3:"):
        assert {row for row in published_rows() if row.startswith(table)} <= set(named)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_SHAPE)
def test_the_true_architecture_keeps_the_contract(name: str) -> None:
    encoder = ENCODERS[name]
    model = shallow(encoder)
    # Four patches and some pixels more: positions are interpolated, the rest is cut.
    size = 4 * encoder.patch + 3
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    (got,) = model(pixels)
    assert got.patches.shape == (1, 4, 4, encoder.width) and got.patches.dtype == torch.float32
    assert got.summary.shape == (1, encoder.width)
    assert torch.isfinite(got.patches).all() and torch.isfinite(got.summary).all()
    (again,) = model(pixels)
    assert torch.equal(again.patches, got.patches) and torch.equal(again.summary, got.summary)
    assert not any(parameter.requires_grad for parameter in model.parameters()) and not model.training
    # The norm's scale is 1 and its shift 0 here, so that what it has normed has a spread of 1.
    spread = got.patches.std(-1, correction=0)
    assert bool(((spread - 1).abs() < 1e-2).all()) == encoder.norm
    # Each patch is where it is in the image: what changes in a corner moves that corner's feature most.
    pixels[..., -encoder.patch - 3 : -3, -encoder.patch - 3 : -3] += 3
    moved = (model(pixels)[0].patches - got.patches).norm(dim=-1).flatten()
    assert moved.argmax().item() == 15


@pytest.mark.parametrize("name", DESCRIBED)
def test_images_become_the_pixels_that_the_yaml_says(name: str) -> None:
    encoder = ENCODERS[name]
    size = encoder.preprocessing.size
    image = make_image(4, (70, 40))
    default = to_pixels(image, encoder.preprocessing)
    assert default.shape == (3, size, size) and default.dtype == np.float32
    assert encoder.preprocessing.mode == "pad"
    # The bar above the picture has the mean's colour, unless the yaml says another, up to its rounding.
    way = encoder.preprocessing
    bar = (np.asarray(way.fill or way.mean) - way.mean) / np.asarray(way.std)
    assert np.abs(default[:, 0] - bar[:, None]).max() < 1 / 255 / min(way.std)
    seen = {mode: load_encoder(f"{name}@{mode}") for mode in ("squash", "crop")}
    for mode, variant in seen.items():
        assert variant.preprocessing.mode == mode and variant.preprocessing.size == size
        other = to_pixels(image, variant.preprocessing)
        assert other.shape == default.shape and not np.allclose(other, default)


@pytest.mark.slow
def test_the_300m_model_runs_whole() -> None:
    encoder = load_encoder("webssl-dino300m-full2b-224")
    model = looking_at_noise(empty(encoder))
    with torch.no_grad():
        for parameter in model.parameters():
            # Memory of its own, as weights from a file have: 1.2 GB.
            parameter.data = parameter.data.clone()
    loaded = family(encoder.family)(encoder, model)
    (got,) = loaded(torch.from_numpy(loaded.preprocess(make_image(5, (300, 200))))[None])
    assert got.patches.shape == (1, 16, 16, 1024) and torch.isfinite(got.patches).all()


# ---- what the yaml may not say ----
def test_siglip_at_384_has_27_patches_an_edge() -> None:
    for name in ("siglip-so400m-384", "siglip2-so400m-384"):
        encoder = ENCODERS[name]
        assert (encoder.preprocessing.size, encoder.grid) == (384, 27)


def test_ijepa_is_normalised_as_it_was_trained_not_as_its_converted_processor_says() -> None:
    facts = load_encoder("ijepa-h-224").preprocessing
    assert facts.mean == (0.485, 0.456, 0.406) and facts.std == (0.229, 0.224, 0.225)


def test_the_crop_of_each_family_is_its_own_processors() -> None:
    from transformers import BitImageProcessorPil, CLIPImageProcessorPil

    image = make_image(6, (90, 61))
    stock = BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    clip = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})
    for name, processor in (("dinov2-g-224@crop", stock), ("metaclip-h-224@crop", clip)):
        expected = processor(image, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(to_pixels(image, load_encoder(name).preprocessing), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "scaled", "resample"),
    [
        ("mae-h-224", 248, 3),
        ("ijepa-h-224", 256, 2),
        ("siglip-so400m-224", 224, 3),
        ("siglip-so400m-384", 384, 3),
        ("siglip2-so400m-224", 224, 3),
    ],
)
def test_the_variant_cambrian_is_its_padding_and_then_the_encoders_own_transforms(
    name: str, scaled: int, resample: int
) -> None:
    from transformers import BitImageProcessorPil

    # Derived anew: a square of CLIP's mean, PIL's default resize, then scaling and cutting as torchvision's do.
    facts = load_encoder(f"{name}@cambrian").preprocessing
    image = make_image(6, (300, 190))
    square = Image.new("RGB", (300, 300), tuple(int(255 * mean) for mean in (0.48145466, 0.4578275, 0.40821073)))
    square.paste(image, (0, 55))
    transforms = BitImageProcessorPil(
        size={"shortest_edge": scaled},
        crop_size={"height": facts.size, "width": facts.size},
        resample=resample,
        image_mean=list(facts.mean),
        image_std=list(facts.std),
    )
    expected = transforms(square.resize((facts.size, facts.size)), return_tensors="np")["pixel_values"][0]
    got = to_pixels(image, facts)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert not np.allclose(got, to_pixels(image, load_encoder(name).preprocessing), atol=0.1)


def test_what_cambrian_cuts_of_the_padded_square_is_told_apart() -> None:
    # A line along the lower edge of a square picture: 9.7 % and 12.5 % of an edge are 11 and 14 pixels a side.
    for name, lost in (("mae-h-224", 10), ("ijepa-h-224", 13)):
        image = Image.new("RGB", (224, 224), "black")
        image.paste("white", (0, 224 - lost, 224, 224))
        cut, whole = (to_pixels(image, load_encoder(found).preprocessing) for found in (f"{name}@cambrian", name))
        assert cut.max() < 0 < whole.max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "squash", "fill": [0] * 3}, "`fill` and `recrop` go with `mode: pad`"),
        ({"mode": "crop", "recrop": {"resize": 300}}, "`fill` and `recrop` go with `mode: pad`"),
        ({"fill": [0, 0, 255]}, "a colour from 0 to 1"),
        ({"recrop": {"resize": 100}}, "`resize` of `recrop` is at least `size`"),
    ],
)
def test_a_padding_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    plain = {"mode": "pad", "size": 224, "mean": [0] * 3, "std": [1] * 3}
    with pytest.raises(ValueError, match=message):
        Preprocessing.model_validate(plain | changes)


def test_a_variant_of_another_mode_drops_what_belongs_to_the_first() -> None:
    padded = load_encoder("mae-h-224@cambrian").model_copy(update={"variants": load_encoder("mae-h-224").variants})
    assert padded.variant("squash").preprocessing == load_encoder("mae-h-224@squash").preprocessing
    assert "fill" not in load_encoder("mae-h-224").preprocessing.model_dump()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"params": 5}, "contradicts the architecture, which has 303655168"),
        ({"family": "vit"}, "family vit has no `ffn: swiglu`"),
        ({"architecture": None}, "give `params`, or the `architecture`"),
        ({"preprocessing": {"mode": "pad", "size": 224, "mean": [0] * 3, "std": [1] * 3, "resize": 256}}, "goes with"),
    ],
)
def test_a_yaml_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    values = load_encoder("webssl-dino300m-full2b-224").model_dump() | {"params": 0}
    with pytest.raises(ValueError, match=message):
        Encoder.model_validate(values | changes)


def test_unknown_variants_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no variant 'sqash'. Did you mean 'squash'\? Known: squash, crop"):
        load_encoder("mae-h-224@sqash")
    with pytest.raises(UserError, match="mini-dino has no variant 'crop'"):
        load_encoder("mini-dino@crop")


def test_variants_and_published_rows_leave_no_trace_in_what_a_run_is() -> None:
    encoder = load_encoder("mae-h-224")
    bare = encoder.model_copy(update={"variants": {}, "facts": encoder.facts.model_copy(update={"published": ()})})
    assert encoder.identity() == bare.identity()
    assert load_encoder("mae-h-224@crop").identity() != encoder.identity()
    mini = load_encoder("mini-dino").model_dump(mode="json")
    assert "architecture" not in mini and "resize" not in mini["preprocessing"]
    assert "published" not in mini["facts"] and "url" not in mini["weights"]
    assert Encoder.model_validate(json.loads(json.dumps(encoder.model_dump(mode="json")))) == bare.model_copy(
        update={"facts": encoder.facts}
    )


# Parameters that the hub, the model cards or the papers state of the whole backbone; the papers round.
STATED = {
    "aimv2-large-224": 309_197_824,
    "aimv2-huge-224": 680_851_968,
    "aimv2-1b-224": 1_234_958_336,
    "dinov2-small": 22_056_576,
    "dinov3-b-224": 85_660_416,
    "siglip2-large-384": 316_283_904,
    "internvit-300m-448": 304_012_288,
}
ROUNDED = {
    "dinov3-s-224": (21e6, 1e6),
    "dinov3-s-plus-224": (29e6, 1e6),
    "dinov3-l-224": (300e6, 4e6),
    "dinov3-h-plus-224": (840e6, 1e6),
    "dinov3-7b-224": (6716e6, 1e6),
    "siglip2-g-384": (1e9, 2e8),
    "mlcd-l-336": (0.3e9, 5e6),
    "franca-b-224": (86e6, 1e6),
    "franca-l-224": (300e6, 5e6),
    "radio-v4-h-512": (653e6, 2e6),
    # Stated of fewer positions.
    "tipsv2-b-448": (85.7e6, 1e6),
    "tipsv2-l-448": (303.2e6, 1e6),
    "tipsv2-so400m-448": (412.4e6, 1e6),
    "tipsv2-g-448": (1.1e9, 5e7),
}


@pytest.mark.parametrize("name", [*STATED, *ROUNDED])
def test_parameters_are_those_that_were_published(name: str) -> None:
    stated, within = (STATED[name], 0) if name in STATED else ROUNDED[name]
    assert abs(ENCODERS[name].params - stated) <= within


@pytest.mark.parametrize(
    ("name", "whole"), [("vjepa2-l-256", 326.0), ("vjepa2-h-256", 653.9), ("vjepa2-g-384", 1034.6)]
)
def test_vjepa_2_has_the_published_parameters_less_its_predictor(name: str, whole: float) -> None:
    from transformers import VJEPA2Model

    kind: Any = family("vjepa2")
    with torch.device("meta"):
        model = VJEPA2Model(kind.config_of(ENCODERS[name]))
    predictor = sum(parameter.numel() for parameter in model.predictor.parameters())
    assert round((ENCODERS[name].params + predictor) / 1e6, 1) == whole


def test_naflex_has_the_published_parameters_less_its_half_for_texts() -> None:
    from transformers import Siglip2TextConfig, Siglip2TextModel

    sizes = {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16, "intermediate_size": 4304}
    with torch.device("meta"):
        text = Siglip2TextModel(Siglip2TextConfig(**sizes, vocab_size=256_000))
    half = sum(parameter.numel() for parameter in text.parameters())
    # And the scale and the bias of the loss.
    assert ENCODERS["siglip2-naflex-so400m-256"].params + half + 2 == 1_135_670_962


def test_registers_add_their_own_weights_and_nothing_else() -> None:
    plain, registers = ENCODERS["dinov2-small"], ENCODERS["dinov2-reg-s-224"]
    assert registers.params - plain.params == 4 * 384
    assert (registers.grid, plain.grid) == (16, 16)


def test_a_bias_that_the_class_does_not_have_is_refused() -> None:
    values = load_encoder("webssl-dino300m-full2b-224").model_dump() | {"params": 0}
    values["architecture"]["qkv_bias"] = False
    with pytest.raises(ValueError, match="family dinov2 has no `qkv_bias: false`"):
        Encoder.model_validate(values)
