"""The encoder contract, family by family, and the traps that real code falls into."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import NO_CLASS_TOKEN, make_encoder, make_image

from mllm_eval.adapters import FAMILIES, build_encoder, load_encoder_model
from mllm_eval.adapters.preprocessing import to_pixels
from mllm_eval.adapters.projector import Projector, resize_grid
from mllm_eval.catalog import Preprocessing
from mllm_eval.errors import UserError

# timm is optional and has tests of its own; OpenVision's weights are files, whose tests are in test_original.
BUILT = [name for name in FAMILIES if not name.startswith("timm") and name != "openvision"]
# Their class norms the CLS token alone.
CLASS_TOKEN_NORMED = ("clip", "metaclip2", "mlcd")
WITHOUT_FINAL_NORM = ("internvit", "radio")


def pixels(count: int = 2, size: int = 28) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize("family", BUILT)
def test_every_family_gives_its_grid_and_is_deterministic(family: str, tmp_path: Path) -> None:
    model = load_encoder_model(make_encoder(tmp_path, family))
    features = model(pixels())
    assert [one.patches.shape for one in features] == [(2, 4, 4, 32)]
    assert features[0].summary.shape == (2, 32)
    assert (model.width, model.grid) == (32, 4)
    assert torch.equal(model(pixels())[0].patches, features[0].patches)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in BUILT if name not in WITHOUT_FINAL_NORM])
def test_last_layer_is_normed_where_the_yaml_says_so_whatever_the_class_does(family: str, tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path, family, norm=True, summary="mean")
    model = load_encoder_model(encoder)
    with torch.no_grad():
        said = model.model(pixels()).last_hidden_state
    last = model.model.post_layernorm(said) if family in CLASS_TOKEN_NORMED else said
    got = model(pixels())[0].patches.flatten(1, 2)
    torch.testing.assert_close(got, last[:, model.prefix :])

    raw = load_encoder_model(make_encoder(tmp_path, family, norm=False, summary="mean"))
    plain = raw(pixels())[0].patches.flatten(1, 2)
    assert not torch.allclose(plain, got, atol=1e-3)
    if family in CLASS_TOKEN_NORMED:
        torch.testing.assert_close(plain, said[:, 1:])


@pytest.mark.parametrize("family", WITHOUT_FINAL_NORM)
def test_a_class_without_a_final_norm_gives_its_features_and_refuses_to_norm_them(family: str, tmp_path: Path) -> None:
    model = load_encoder_model(make_encoder(tmp_path, family))
    with torch.no_grad():
        said = model.model(pixels()).last_hidden_state
    torch.testing.assert_close(model(pixels())[0].patches.flatten(1, 2), said[:, model.prefix :])
    with pytest.raises(UserError, match="its class has no final norm; set norm: false"):
        load_encoder_model(make_encoder(tmp_path, family, norm=True))


@pytest.mark.parametrize(("family", "prefix"), [("radio", 10), ("tipsv2", 2)])
def test_class_tokens_beside_the_first_never_become_patches(family: str, prefix: int, tmp_path: Path) -> None:
    model = load_encoder_model(make_encoder(tmp_path, family))
    got = model(pixels())[0]
    with torch.no_grad():
        said = model.model(pixels()).last_hidden_state
    assert (model.prefix, said.shape) == (prefix, (2, prefix + 16, 32))
    torch.testing.assert_close(got.patches.flatten(1, 2), said[:, -16:])
    torch.testing.assert_close(got.summary, said[:, 0])


@pytest.mark.parametrize(
    ("family", "field", "said", "wanted"),
    [("radio", "num_registers", 3, 7), ("radio", "num_cls_tokens", 4, 7), ("tipsv2", "num_register_tokens", 4, 1)],
)
def test_other_counts_of_tokens_before_the_patches_are_refused(
    family: str, field: str, said: int, wanted: int, tmp_path: Path
) -> None:
    encoder = make_encoder(tmp_path, family)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, field: said}))
    with pytest.raises(UserError, match=rf"the weights have \d registers, family {family} reads them with {wanted}"):
        load_encoder_model(encoder)


@pytest.mark.parametrize("family", BUILT)
def test_a_checkpoints_architecture_is_made_again_and_computes_in_half_precision(family: str, tmp_path: Path) -> None:
    model = load_encoder_model(make_encoder(tmp_path, family))
    # As a checkpoint keeps it.
    again = build_encoder(model.facts, json.loads(json.dumps(model.config_values())))
    again.load_state_dict(model.state_dict())
    expected = model(pixels())[0]
    got = again(pixels())[0]
    assert torch.equal(got.patches, expected.patches) and torch.equal(got.summary, expected.summary)
    half = again.to(torch.bfloat16)(pixels().bfloat16())[0]
    assert half.patches.dtype == torch.bfloat16
    # Other features than of another image, by far: bfloat16 has two to three digits.
    close = torch.nn.functional.cosine_similarity(half.patches.float(), expected.patches, dim=-1)
    assert close.min() > 0.98


def test_radio_normalises_pixels_by_itself(tmp_path: Path) -> None:
    model = load_encoder_model(make_encoder(tmp_path, "radio"))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    seen: list[torch.Tensor] = []
    model.model.embeddings.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    model(pixels())
    torch.testing.assert_close(seen[0], (pixels() - mean) / std)


def test_vjepa_2_sees_an_image_as_two_equal_frames_and_leaves_its_predictor_out(tmp_path: Path) -> None:
    from transformers import VJEPA2Model

    model = load_encoder_model(make_encoder(tmp_path, "vjepa2"))
    assert not any("predictor" in name for name, _ in model.named_parameters())
    whole = VJEPA2Model.from_pretrained(tmp_path).eval()
    video = pixels()[:, None].repeat(1, 2, 1, 1, 1)
    with torch.no_grad():
        said = whole(video, skip_predictor=True).last_hidden_state
    torch.testing.assert_close(model(pixels())[0].patches.flatten(1, 2), said)


def test_vjepa_2_counts_rows_by_the_image_at_hand(tmp_path: Path) -> None:
    model = load_encoder_model(make_encoder(tmp_path, "vjepa2"))
    made = make_encoder(tmp_path / "larger", "vjepa2", size=35)
    larger = load_encoder_model(made)
    larger.load_state_dict(model.state_dict())
    # Weights that were made for 28 pixels do with 35 as those that were made for 35, there and back.
    expected = larger(pixels(1, 35))[0].patches
    torch.testing.assert_close(model(pixels(1, 35))[0].patches, expected)
    torch.testing.assert_close(larger(pixels(1, 28))[0].patches, model(pixels(1, 28))[0].patches)
    with pytest.raises(UserError, match=r"family vjepa2 takes squares, not \(28, 35\)"):
        model(torch.zeros(1, 3, 28, 35))


def test_vjepa_2_of_another_span_in_time_is_refused(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path, "vjepa2")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tubelet_size": 1}))
    with pytest.raises(
        UserError, match=r"config\.json: `tubelet_size: 1`: family vjepa2 reads weights whose patches span 2"
    ):
        load_encoder_model(encoder)


def test_naflex_is_given_what_its_processor_makes_of_a_square(tmp_path: Path) -> None:
    from transformers import Siglip2ImageProcessorPil, Siglip2VisionModel

    model = load_encoder_model(make_encoder(tmp_path, "siglip2_naflex", summary="pooled"))
    stock = Siglip2VisionModel.from_pretrained(tmp_path).eval()
    for size in (28, 42):
        image = make_image(7, (size, size))
        # Their own default fills up with masked patches, of which there are none here.
        made = Siglip2ImageProcessorPil(patch_size=7, max_num_patches=(size // 7) ** 2)(image, return_tensors="pt")
        with torch.no_grad():
            said = stock(**made)
        mine = torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255 * 2 - 1)
        got = model(mine)[0]
        torch.testing.assert_close(got.patches.flatten(1, 2), said.last_hidden_state, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got.summary, said.pooler_output, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["dinov2_with_registers", "dinov3"])
def test_registers_are_counted_off_behind_the_class_token(family: str, tmp_path: Path) -> None:
    model = load_encoder_model(make_encoder(tmp_path, family))
    assert model.prefix == 5 and model.has_cls
    got = model(pixels())[0]
    with torch.no_grad():
        said = model.model(pixels()).last_hidden_state
    # CLS, four registers, 16 patches: sliced by hand.
    assert said.shape == (2, 21, 32)
    torch.testing.assert_close(got.patches.flatten(1, 2), said[:, -16:])
    torch.testing.assert_close(got.summary, said[:, 0])
    # What changes in the first patch moves the first patch most, whatever the size of the grid.
    for size in (28, 35):
        before = model(pixels(1, size))[0].patches
        changed = pixels(1, size)
        changed[:, :, :7, :7] += 1
        assert (model(changed)[0].patches - before).abs().amax((0, 3)).argmax().item() == 0


@pytest.mark.parametrize("family", ["dinov2_with_registers", "dinov3"])
@pytest.mark.parametrize("registers", [0, 3])
def test_registers_that_the_family_does_not_declare_are_refused(family: str, registers: int, tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path, family)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_register_tokens": registers}))
    with pytest.raises(UserError, match=f"the weights have {registers} registers, family {family} reads .* with 4"):
        load_encoder_model(encoder)


def test_dinov3s_features_before_and_after_the_norm_are_told_apart(tmp_path: Path) -> None:
    after = load_encoder_model(make_encoder(tmp_path, "dinov3"))
    before = load_encoder_model(make_encoder(tmp_path, "dinov3", norm=False))
    with torch.no_grad():
        states = after.model(pixels(), output_hidden_states=True).hidden_states
    raw = before(pixels())[0].patches.flatten(1, 2)
    torch.testing.assert_close(raw, states[-1][:, 5:])
    torch.testing.assert_close(after.final_norm()(raw), after(pixels())[0].patches.flatten(1, 2))


def test_dinov3s_tensors_may_bear_the_names_they_were_published_with(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    encoder = make_encoder(tmp_path, "dinov3")
    expected = load_encoder_model(encoder)(pixels())[0].patches
    path = tmp_path / "model.safetensors"
    published = {name.removeprefix("model."): tensor for name, tensor in load_file(path).items()}
    assert "layer.0.norm1.weight" in published
    save_file(published, path, metadata={"format": "pt"})
    assert torch.equal(load_encoder_model(encoder)(pixels())[0].patches, expected)


def test_aimv2s_positions_are_interpolated_and_left_alone_at_the_native_size(tmp_path: Path) -> None:
    model = load_encoder_model(make_encoder(tmp_path, "aimv2", norm=False))
    embeddings = model.model.embeddings
    table = embeddings.position_embedding.weight
    with torch.no_grad():
        plain = embeddings.rms_norm(embeddings.patch_embed(pixels()).flatten(2).transpose(1, 2))
        torch.testing.assert_close(embeddings(pixels()), plain + table)
        wide = embeddings(pixels(1, 56))
        plain = embeddings.rms_norm(embeddings.patch_embed(pixels(1, 56)).flatten(2).transpose(1, 2))
    expected = torch.nn.functional.interpolate(table.T.view(1, 32, 4, 4), (8, 8), mode="bicubic").flatten(2)
    torch.testing.assert_close(wide - plain, expected.transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("said", ["is_native", "use_head"])
def test_another_kind_of_aimv2_is_refused_in_one_line(said: str, tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path, "aimv2")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, said: True}))
    with pytest.raises(UserError, match=f"config.json: `{said}: true` is an AIMv2 with") as caught:
        load_encoder_model(encoder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", NO_CLASS_TOKEN)
def test_families_without_cls_drop_no_patch(family: str, tmp_path: Path) -> None:
    model = load_encoder_model(make_encoder(tmp_path, family))
    before = model(pixels())[0].patches
    changed = pixels()
    changed[:, :, :7, :7] += 1
    moved = (model(changed)[0].patches - before).abs().amax((0, 3))
    # The first patch holds the changed pixels, so it must move most.
    assert moved.argmax().item() == 0


@pytest.mark.parametrize("family", BUILT)
def test_nothing_is_computed_behind_the_layer_asked_for(family: str, tmp_path: Path) -> None:
    model = load_encoder_model(make_encoder(tmp_path, family))
    ran: list[int] = []
    for number, block in enumerate(model.blocks(), 1):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    pixels = torch.zeros(1, 3, 28, 28)
    first, both = model(pixels, [1])[0], model(pixels, [1, 2])[0]
    assert ran == [1, 1, 2]
    assert torch.equal(first.patches, both.patches) and torch.equal(first.summary, both.summary)


def test_layers_count_blocks_from_one_or_from_the_end(tmp_path: Path) -> None:
    model = load_encoder_model(make_encoder(tmp_path, "dinov2", norm=False))
    first, last, also_first = model(pixels(), layers=(1, -1, -2))
    assert torch.equal(first.patches, also_first.patches)
    assert not torch.equal(first.patches, last.patches)
    states = model.model(pixels(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(first.patches.flatten(1, 2), states[1][:, 1:])
    with pytest.raises(UserError, match="there is no layer 3"):
        model(pixels(), layers=(3,))


@pytest.mark.parametrize("family", BUILT)
def test_other_sizes_interpolate_and_cut_the_rest(family: str, tmp_path: Path) -> None:
    facts = {"mode": "pad", "size": 38, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    model = load_encoder_model(make_encoder(tmp_path, family, preprocessing=facts))
    assert model.grid == 5
    assert model(pixels(1, 38))[0].patches.shape == (1, 5, 5, 32)


def test_mae_weights_load_into_vit_and_keep_their_order(tmp_path: Path) -> None:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=28,
        patch_size=7,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        mask_ratio=0.0,
    )
    torch.manual_seed(0)
    mae = ViTMAEForPreTraining(config).eval()
    mae.save_pretrained(tmp_path / "mae")
    params = make_encoder(tmp_path / "vit", "vit").params
    encoder = make_encoder(tmp_path / "vit", "vit", weights={"path": str(tmp_path / "mae")}, params=params)
    got = load_encoder_model(encoder)(pixels())[0].patches.flatten(1, 2)
    with torch.no_grad():
        # The noise is what MAE sorts its tokens by; in ascending order nothing is shuffled.
        kept = mae.vit(pixels(), noise=torch.arange(16.0).expand(2, -1)).last_hidden_state
    torch.testing.assert_close(got, kept[:, 1:])
    assert torch.equal(load_encoder_model(encoder)(pixels())[0].patches.flatten(1, 2), got)


def test_a_whole_clip_gives_its_vision_half(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 28,
        "patch_size": 7,
    }
    text = {**vision, "vocab_size": 50}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision)).eval()
    clip.save_pretrained(tmp_path)
    facts = make_encoder(tmp_path / "other", "clip", weights={"path": str(tmp_path)}, summary="pooled")
    got = load_encoder_model(facts)(pixels())[0]
    with torch.no_grad():
        said = clip.vision_model(pixels())
    torch.testing.assert_close(got.summary, said.pooler_output)
    torch.testing.assert_close(got.patches.flatten(1, 2), said.last_hidden_state[:, 1:])


def test_siglip_pools_with_its_head(tmp_path: Path) -> None:
    model = load_encoder_model(make_encoder(tmp_path, "siglip", summary="pooled"))
    with torch.no_grad():
        torch.testing.assert_close(model(pixels())[0].summary, model.model(pixels()).pooler_output)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 3}, "the yaml says depth: 3, the weights have 2"),
        ({"patch": 14}, "patch: 14"),
        ({"width": 64}, "width: 64"),
        ({"params": 12345}, "params: 12345"),
        ({"as_family": "siglip"}, "of type 'dinov2'"),
        ({"summary": "pooled"}, "no pooling of its own"),
        ({"weights": {"path": "/nowhere/at/all"}}, "no such folder"),
    ],
)
def test_facts_are_checked_against_the_weights(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_encoder_model(make_encoder(tmp_path, "dinov2", **changes))


def test_cls_summary_needs_a_cls_token(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no CLS token"):
        load_encoder_model(make_encoder(tmp_path, "ijepa", summary="cls"))


def test_cut_or_incomplete_weights_are_refused(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="cut short; fetch or copy it again"):
        load_encoder_model(encoder)

    from safetensors.torch import load, save

    tensors = load(whole)
    del tensors["layernorm.weight"]
    path.write_bytes(save(tensors, {"format": "pt"}))
    with pytest.raises(UserError, match=r"1 tensors are missing, the first is layernorm\.weight"):
        load_encoder_model(encoder)


def test_half_precision_weights_load_as_asked(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path)
    model = load_encoder_model(encoder)
    model.model.half().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["dtype"] == "float16"
    assert {p.dtype for p in load_encoder_model(encoder).parameters()} == {torch.float32}
    assert {p.dtype for p in load_encoder_model(encoder, torch.bfloat16).parameters()} == {torch.bfloat16}


# ---- preprocessing ----
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def facts(mode: str, size: int = 28) -> Preprocessing:
    return Preprocessing(mode=mode, size=size, mean=CLIP_MEAN, std=CLIP_STD)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(40, 30), (30, 41), (28, 28), (1, 60)])
def test_pad_is_cambrians_square_and_pils_bicubic(shape: tuple[int, int]) -> None:
    image = make_image(1, shape)
    edge = max(shape)
    square = Image.new("RGB", (edge, edge), tuple(int(255 * value) for value in CLIP_MEAN))
    square.paste(image, ((edge - shape[0]) // 2, (edge - shape[1]) // 2))
    # PIL's default for RGB is bicubic.
    expected = np.asarray(square.resize((28, 28)), np.float64) / 255
    expected = ((expected - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)
    got = to_pixels(image, facts("pad"))
    assert got.dtype == np.float32 and got.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_squash_and_crop_are_what_transformers_processors_do() -> None:
    from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

    image = make_image(2, (90, 61))
    mean_std = {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    squashed = ViTImageProcessorPil(size={"height": 28, "width": 28}, resample=3, **mean_std)
    np.testing.assert_allclose(
        to_pixels(image, facts("squash")), squashed(image, return_tensors="np")["pixel_values"][0], atol=1e-5
    )
    cropped = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}, resample=3, **mean_std
    )
    np.testing.assert_allclose(
        to_pixels(image, facts("crop")), cropped(image, return_tensors="np")["pixel_values"][0], atol=1e-5
    )


def test_pad_keeps_the_border_that_the_stock_dinov2_processor_cuts() -> None:
    image = Image.new("RGB", (224, 224), "black")
    image.paste("white", (0, 0, 224, 10))
    assert to_pixels(image, facts("pad", 224))[:, 2].mean() > 1
    assert to_pixels(image, facts("crop", 224))[:, 2].mean() < 0


def test_transparency_and_grey_become_rgb() -> None:
    for mode in ("L", "RGBA", "P", "1"):
        assert to_pixels(make_image(3).convert(mode), facts("pad")).shape == (3, 28, 28)


# ---- projector ----
def test_resize_is_bilinear_without_antialias_in_float32() -> None:
    ramp = torch.arange(4.0).view(1, 1, 4, 1).expand(1, 4, 4, 1)
    got = resize_grid(ramp, 2)[0, 0, :, 0]
    # Centres of halves lie at 0.5 and 2.5 of the old grid; antialias would give the means 0.5 and 2.5 of
    # more neighbours, align_corners 0 and 3.
    torch.testing.assert_close(got, torch.tensor([0.5, 2.5]))
    up = resize_grid(ramp, 8)[0, 0, :, 0]
    torch.testing.assert_close(up, torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]))
    half = torch.randn(1, 4, 4, 8).bfloat16()
    assert torch.equal(resize_grid(half, 3), resize_grid(half.float(), 3).bfloat16())
    assert resize_grid(half, 4) is half


def test_projector_standardises_before_it_projects() -> None:
    torch.manual_seed(0)
    plain = Projector(8, 16, 9)
    scaled = Projector(8, 16, 9, standardize=True)
    scaled.load_state_dict(plain.state_dict(), strict=False)
    features = torch.randn(2, 4, 4, 8) * 5 + 3
    mean, std = features.mean((0, 1, 2)), features.std((0, 1, 2))
    std[3] = 0
    scaled.set_statistics(mean, std)
    by_hand = (features - mean) / torch.where(std > 0, std, 1)
    torch.testing.assert_close(scaled(features), plain(by_hand))
    assert set(scaled.state_dict()) - set(plain.state_dict()) == {"mean", "std"}
    assert plain(features).shape == (2, 9, 16)


def test_projector_kinds_and_budgets() -> None:
    linears = [len([m for m in Projector(8, 8, 4, kind).layers if hasattr(m, "weight")]) for kind in KINDS]
    assert linears == [1, 1, 2, 3]
    with pytest.raises(UserError, match="mlp2x_relu"):
        Projector(8, 8, 4, "mlp2x_relu")
    with pytest.raises(UserError, match="not a square"):
        Projector(8, 8, 8)


KINDS = ["linear", "mlp1x_gelu", "mlp2x_gelu", "mlp3x_gelu"]
