"""Checkpoints of the original code give the features of the transformers folder made from the same weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import make_encoder
from torch import Tensor

from mllm_eval.adapters import load_encoder_model
from mllm_eval.catalog import Encoder, Weights
from mllm_eval.errors import UserError

State = dict[str, Tensor]
SHAPE = {"heads": 2, "hidden": 64, "native": 28}


def pixels() -> Tensor:
    return torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))


def make_swiglu(folder: Path) -> Encoder:
    """A DINOv2 with the feed-forward network of Web-DINO: 2 / 3 of 4 x 32, rounded up to 88."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=28,
        patch_size=7,
        use_swiglu_ffn=True,
        layerscale_value=0.5,
    )
    torch.manual_seed(1)
    model = Dinov2Model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    shape = {"heads": 2, "ffn": "swiglu", "hidden": 88, "native": 28}
    plain = make_encoder(folder.with_name("unused"), "dinov2")
    values = {"weights": {"path": str(folder)}, "depth": 4, "architecture": shape, "params": 0}
    return Encoder.model_validate({**plain.model_dump(), **values})


def weights_of(encoder: Encoder) -> State:
    return {name: tensor.clone() for name, tensor in load_encoder_model(encoder).model.state_dict().items()}


def renamed(state: State, rows: dict[str, str], together: dict[str, tuple[str, ...]]) -> State:
    """The tensors under original names; `together` joins parts that the original code stores as one."""
    found: State = {}
    for target, parts in together.items():
        for name in [name for name in state if re.fullmatch(parts[0], name)]:
            match = re.fullmatch(parts[0], name)
            assert match
            others = [match.expand(part) for part in parts[1:]]
            found[match.expand(target)] = torch.cat([state[one] for one in (name, *others)])
    for pattern, target in rows.items():
        for name in [name for name in state if re.fullmatch(pattern, name)]:
            found[re.sub(pattern, target, name)] = state[name]
    return found


def vit_names(layers: str, before: str, after: str) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    at = layers.replace(".", r"\.") + r"\.(\d+)\."
    rows = {
        r"embeddings\.(cls_token|mask_token)": r"\1",
        r"embeddings\.position_embeddings": "pos_embed",
        r"embeddings\.patch_embeddings\.projection\.(\w+)": r"patch_embed.proj.\1",
        at + before + r"\.(\w+)": r"blocks.\1.norm1.\2",
        at + after + r"\.(\w+)": r"blocks.\1.norm2.\2",
        at + r"attention\.o_proj\.(\w+)": r"blocks.\1.attn.proj.\2",
        at + r"layer_scale(\d)\.lambda1": r"blocks.\1.ls\2.gamma",
        at + r"mlp\.fc(\d)\.(\w+)": r"blocks.\1.mlp.fc\2.\3",
        at + r"mlp\.down_proj\.(\w+)": r"blocks.\1.mlp.w3.\2",
        r"layernorm\.(\w+)": r"norm.\1",
    }
    key = rf"{layers}.\1.attention.k_proj.\2", rf"{layers}.\1.attention.v_proj.\2"
    together = {
        r"blocks.\1.attn.qkv.\2": (at + r"attention\.q_proj\.(\w+)", *key),
        r"blocks.\1.mlp.w12.\2": (at + r"mlp\.gate_proj\.(\w+)", rf"{layers}.\1.mlp.up_proj.\2"),
    }
    return rows, together


DINOV2 = vit_names("encoder.layer", "norm1", "norm2")
VIT = vit_names("layers", "layernorm_before", "layernorm_after")
CLIP = (
    {
        r"embeddings\.class_embedding": "visual.class_embedding",
        r"embeddings\.position_embedding\.weight": "visual.positional_embedding",
        r"embeddings\.patch_embedding\.weight": "visual.conv1.weight",
        r"pre_layrnorm\.(\w+)": r"visual.ln_pre.\1",
        r"post_layernorm\.(\w+)": r"visual.ln_post.\1",
        r"encoder\.layers\.(\d+)\.layer_norm(\d)\.(\w+)": r"visual.transformer.resblocks.\1.ln_\2.\3",
        r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)": r"visual.transformer.resblocks.\1.attn.out_proj.\2",
        r"encoder\.layers\.(\d+)\.mlp\.fc1\.(\w+)": r"visual.transformer.resblocks.\1.mlp.c_fc.\2",
        r"encoder\.layers\.(\d+)\.mlp\.fc2\.(\w+)": r"visual.transformer.resblocks.\1.mlp.c_proj.\2",
    },
    {
        r"visual.transformer.resblocks.\1.attn.in_proj_\2": (
            r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(\w+)",
            r"encoder.layers.\1.self_attn.k_proj.\2",
            r"encoder.layers.\1.self_attn.v_proj.\2",
        )
    },
)
INTERNVIT = (
    {
        r"embeddings\.cls_token": "embeddings.class_embedding",
        r"embeddings\.position_embeddings": "embeddings.position_embedding",
        r"embeddings\.patch_embeddings\.projection\.(\w+)": r"embeddings.patch_embedding.\1",
        r"encoder\.layer\.(\d+)\.layernorm_before\.(\w+)": r"encoder.layers.\1.norm1.\2",
        r"encoder\.layer\.(\d+)\.layernorm_after\.(\w+)": r"encoder.layers.\1.norm2.\2",
        r"encoder\.layer\.(\d+)\.attention\.projection_layer\.(\w+)": r"encoder.layers.\1.attn.proj.\2",
        r"encoder\.layer\.(\d+)\.lambda_(\d)": r"encoder.layers.\1.ls\2",
        r"encoder\.layer\.(\d+)\.mlp\.fc(\d)\.(\w+)": r"encoder.layers.\1.mlp.fc\2.\3",
    },
    {
        r"encoder.layers.\1.attn.qkv.\2": (
            r"encoder\.layer\.(\d+)\.attention\.q_proj\.(\w+)",
            r"encoder.layer.\1.attention.k_proj.\2",
            r"encoder.layer.\1.attention.v_proj.\2",
        )
    },
)
AT = r"radio_model.model.blocks.\1."
RADIO = (
    {
        r"input_conditioner\.(\w+)": r"radio_model.input_conditioner.\1",
        "summary_idxs": "radio_model.summary_idxs",
        r"embeddings\.patch_projection\.weight": "radio_model.model.patch_generator.embedder.weight",
        r"embeddings\.position_embedding": "radio_model.model.patch_generator.pos_embed",
        r"embeddings\.cls_register_token": "radio_model.model.patch_generator.cls_token.token",
        r"encoder\.layer\.(\d+)\.(norm\d|mlp\.fc\d)\.(\w+)": AT + r"\2.\3",
        r"encoder\.layer\.(\d+)\.attention\.o_proj\.(\w+)": AT + r"attn.proj.\2",
    },
    {AT + r"attn.qkv.\2": INTERNVIT[1][r"encoder.layers.\1.attn.qkv.\2"]},
)


def chunked(state: State, size: int) -> State:
    """`blocks.<chunk>.<block>`, as Web-SSL was released: blocks count on, each chunk begins behind the last."""

    def name(match: re.Match[str]) -> str:
        return f"blocks.{int(match[1]) // size}.{match[1]}."

    return {re.sub(r"^blocks\.(\d+)\.", name, key): value for key, value in state.items()}


def as_file(encoder: Encoder, path: Path, held: Any, **changes: Any) -> Encoder:
    torch.save(held, path)
    shape = encoder.architecture or SHAPE
    values = {"architecture": shape, "weights": {"path": str(path)}, "params": 0, **changes}
    return Encoder.model_validate({**encoder.model_dump(), **values})


def assert_same_features(one: Encoder, other: Encoder) -> None:
    mine, theirs = load_encoder_model(one)(pixels())[0], load_encoder_model(other)(pixels())[0]
    torch.testing.assert_close(mine.patches, theirs.patches, atol=1e-5, rtol=0)
    torch.testing.assert_close(mine.summary, theirs.summary, atol=1e-5, rtol=0)


def test_a_released_web_dino_checkpoint_gives_the_folders_features(tmp_path: Path) -> None:
    folder = make_swiglu(tmp_path / "hub")
    state = chunked(renamed(weights_of(folder), *DINOV2), 2)
    assert "blocks.1.3.mlp.w12.weight" in state and len(state) == 7 + 4 * 14
    assert_same_features(as_file(folder, tmp_path / "released.pth", state), folder)


def test_a_teacher_with_its_heads_is_read_without_them(tmp_path: Path) -> None:
    folder = make_swiglu(tmp_path / "hub")
    state = {f"module.backbone.{name}": value for name, value in renamed(weights_of(folder), *DINOV2).items()}
    state |= {"module.dino_head.mlp.0.weight": torch.ones(3), "module.ibot_head.last.weight": torch.ones(3)}
    # Franca's, beside what DINOv2 has.
    state["module.rasa_head.pre_pos_layers.0.weight"] = torch.ones(3)
    assert_same_features(as_file(folder, tmp_path / "teacher.pth", {"teacher": state, "iteration": 7}), folder)


@pytest.mark.slow
def test_it_computes_what_the_original_code_does(tmp_path: Path) -> None:
    folder = make_swiglu(tmp_path / "hub")
    state = renamed(weights_of(folder), *DINOV2)
    got = load_encoder_model(as_file(folder, tmp_path / "released.pth", chunked(state, 2)))(pixels())[0]

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (32,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    x = F.conv2d(pixels(), state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=7)
    x = torch.cat([state["cls_token"].expand(2, -1, -1), x.flatten(2).mT], 1) + state["pos_embed"]
    for block in (f"blocks.{index}" for index in range(4)):
        # Packed as [3, heads, features], scaled before the product.
        q, k, v = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).view(2, 17, 3, 2, 16).permute(2, 0, 3, 1, 4)
        seen = ((q * 16**-0.5) @ k.mT).softmax(-1) @ v
        x = x + state[f"{block}.ls1.gamma"] * linear(f"{block}.attn.proj", seen.transpose(1, 2).reshape(2, 17, 32))
        gate, up = linear(f"{block}.mlp.w12", norm(f"{block}.norm2", x)).chunk(2, -1)
        x = x + state[f"{block}.ls2.gamma"] * linear(f"{block}.mlp.w3", F.silu(gate) * up)
    torch.testing.assert_close(got.patches.flatten(1, 2), norm("norm", x)[:, 1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("family", "names"), [("dinov2", DINOV2), ("vit", VIT), ("ijepa", VIT), ("clip", CLIP)])
def test_every_layout_gives_the_folders_features(family: str, names: Any, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "hub", family)
    state = renamed(weights_of(folder), *names)
    held: Any = state
    if family == "clip":
        # The text half and the shared space, as open_clip saves them.
        text = {"visual.proj": torch.ones(3), "transformer.resblocks.0.ln_1.weight": torch.ones(3)}
        held = {"epoch": 1, "state_dict": {f"module.{name}": value for name, value in (state | text).items()}}
    if family == "vit":
        held = {"model": state | {"mask_token": torch.ones(3), "decoder_pos_embed": torch.ones(3)}}
    if family == "ijepa":
        own, other = ({f"module.{name}": value + more for name, value in state.items()} for more in (0, 1))
        held = {"target_encoder": other, "encoder": own, "epoch": 900}
    activation = "quick_gelu" if family == "clip" else "gelu"
    file = as_file(folder, tmp_path / "original.pth", held, architecture={**SHAPE, "activation": activation})
    assert_same_features(file, folder)


def test_internvits_own_file_gives_the_folders_features(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "hub", "internvit")
    state = renamed(weights_of(folder), *INTERNVIT)
    assert len(state) == 4 + 2 * 14
    assert_same_features(as_file(folder, tmp_path / "original.pth", state), folder)


def test_radios_own_file_has_no_layer_scales_which_are_one(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from transformers import RadioModel

    folder = make_encoder(tmp_path / "hub", "radio")
    model = RadioModel.from_pretrained(tmp_path / "hub")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lambda1"):
                parameter.fill_(1)
    model.save_pretrained(tmp_path / "hub")
    state = renamed(weights_of(folder), *RADIO)
    assert not any("lambda" in name for name in state) and len(state) == 6 + 2 * 12
    more = {"radio_model.model.patch_generator.video_embedder.weight": torch.ones(3)}
    path = tmp_path / "model.safetensors"
    save_file({name: value.contiguous() for name, value in (state | more).items()}, path)
    shape = {**SHAPE, "native": 56, "activation": "gelu", "norm_eps": 1e-6}
    file = as_file(folder, tmp_path / "unused.pth", {}, architecture=shape, weights={"path": str(path)})
    assert_same_features(file, folder)


def test_openvision_is_a_clip_without_the_norm_before_its_blocks(tmp_path: Path) -> None:
    clip = make_encoder(tmp_path / "hub", "clip", summary="pooled")
    weights = load_encoder_model(clip).model
    state = {name: value for name, value in renamed(weights.state_dict(), *CLIP).items() if "ln_pre" not in name}
    shape = {**SHAPE, "activation": "quick_gelu"}
    file = as_file(clip, tmp_path / "a.bin", state, family="openvision", architecture=shape)
    assert clip.params - file.params == 2 * 32
    got = load_encoder_model(file)(pixels())[0]
    weights.pre_layrnorm = torch.nn.Identity()
    with torch.no_grad():
        said = weights(pixels()).last_hidden_state[:, 1:]
        pooled = weights.post_layernorm(said.mean(1))
    torch.testing.assert_close(got.patches.flatten(1, 2), said)
    torch.testing.assert_close(got.summary, pooled)
    with_norm = as_file(
        clip, tmp_path / "b.bin", renamed(weights_of(clip), *CLIP), architecture=shape, family="openvision"
    )
    with pytest.raises(UserError, match=r"no place in what the yaml describes, the first is visual\.ln_pre"):
        load_encoder_model(with_norm)


def test_ijepas_other_encoder_is_read_by_name_and_is_another_run(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "hub", "ijepa")
    state = renamed(weights_of(folder), *VIT)
    target = {f"module.{name}": value for name, value in state.items()}
    held = {"target_encoder": target, "encoder": {name: value + 1 for name, value in target.items()}}
    shape = {**SHAPE, "activation": "gelu"}
    file = as_file(folder, tmp_path / "a.pth.tar", held, architecture=shape)
    by_name = {"path": file.weights.path, "key": "target_encoder"}
    named = as_file(folder, tmp_path / "a.pth.tar", held, architecture=shape, weights=by_name)
    assert_same_features(named, folder)
    assert file.weights.digest() != named.weights.digest()
    # What was read before `encoder` was, so features and runs of it are not taken for those of the other.
    assert file.weights.digest().endswith("#encoder")
    assert "#" not in folder.weights.digest()


def test_a_file_without_the_weights_that_are_meant_says_which_it_has(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "hub", "ijepa")
    state = renamed(weights_of(folder), *VIT)
    shape = {**SHAPE, "activation": "gelu"}
    file = as_file(folder, tmp_path / "a.pth", {"target_encoder": state, "opt": {}}, architecture=shape)
    with pytest.raises(UserError, match=r"no weights under 'encoder', but target_encoder, opt; say `weights: key:`"):
        load_encoder_model(file)
    # Of a file that holds one encoder's tensors alone there is nothing to choose.
    assert_same_features(as_file(folder, tmp_path / "b.pth", state, architecture=shape), folder)


def test_safetensors_and_files_of_old_torch_are_read_too(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = make_encoder(tmp_path / "hub")
    state = renamed(weights_of(folder), *DINOV2)
    file = as_file(folder, tmp_path / "old.pth", state)
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same_features(file, folder)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "tensors.safetensors")
    moved = Weights(path=str(tmp_path / "tensors.safetensors"))
    assert_same_features(file.model_copy(update={"weights": moved}), folder)


def test_a_checkpoint_loads_in_the_precision_asked_for(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "hub")
    file = as_file(folder, tmp_path / "a.pth", renamed(weights_of(folder), *DINOV2))
    model = load_encoder_model(file, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


class _Arbitrary:
    """What a training script pickles beside its weights."""


@pytest.mark.parametrize(
    ("change", "yaml", "message"),
    [
        (lambda state: {**state, "register_tokens": torch.ones(1, 4, 32)}, {}, "first is register_tokens"),
        (lambda state: state, {"depth": 1}, "14 tensors have no place in .* blocks.1.attn.qkv.weight; correct"),
        (lambda state: state, {"depth": 3}, r"tensors are missing, the first is encoder\.layer\.2\."),
        (lambda state: {n: t for n, t in state.items() if n != "norm.bias"}, {}, "1 tensors are missing"),
        (lambda state: state, {"width": 64, "architecture": {**SHAPE, "hidden": 128}}, "where the yaml describes"),
        (lambda state: state, {"architecture": {**SHAPE, "native": 56}}, r"pos_embed has shape \(1, 17, 32\)"),
        (lambda state: state, {"architecture": {**SHAPE, "hidden": 65}}, "no whole ratio to width 32 gives hidden: 65"),
        (lambda state: state, {"architecture": {**SHAPE, "ffn": "swiglu", "hidden": 88}}, "have no place"),
        (lambda state: {"teacher": {"state_dict": 5}}, {}, "not named tensors"),
        (lambda state: {"epoch": 5}, {}, "holds no tensors"),
        (lambda state: {"model": state, "args": _Arbitrary()}, {}, "does not unpickle"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    change: Any, yaml: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = make_encoder(tmp_path / "hub")
    state = renamed(weights_of(folder), *DINOV2)
    with pytest.raises(UserError, match=message) as refused:
        load_encoder_model(as_file(folder, tmp_path / "a.pth", change(state), **yaml))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_cut_or_no_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "hub")
    file = as_file(folder, tmp_path / "a.pth", renamed(weights_of(folder), *DINOV2))
    whole = (tmp_path / "a.pth").read_bytes()
    for content in (whole[: len(whole) // 2], b"no checkpoint", b""):
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(UserError, match=r"a\.pth: "):
            load_encoder_model(file)


def test_a_file_needs_an_architecture_and_a_family_with_a_layout(tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "hub")
    torch.save({}, tmp_path / "a.pth")
    bare = folder.model_dump() | {"weights": {"path": str(tmp_path / "a.pth")}}
    with pytest.raises(UserError, match="which has no config; say `architecture:`"):
        load_encoder_model(Encoder.model_validate(bare))
    siglip = make_encoder(tmp_path / "siglip", "siglip")
    file = as_file(siglip, tmp_path / "a.pth", {})
    with pytest.raises(UserError, match="family siglip reads folders in hub format only"):
        load_encoder_model(file)


def test_hub_folders_in_the_layout_of_the_release_load(tmp_path: Path) -> None:
    """Web-DINO lies on the hub under the names of transformers 4.48: split attention, a fused SwiGLU."""
    from safetensors.torch import load_file, save_file

    folder = make_swiglu(tmp_path / "hub")
    state = weights_of(folder)
    path = tmp_path / "hub" / "model.safetensors"
    old: State = {}
    for name, tensor in state.items():
        for new, was in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
            name = name.replace(f"attention.{new}", f"attention.attention.{was}")
        name = name.replace("attention.o_proj", "attention.output.dense").replace("mlp.down_proj", "mlp.weights_out")
        if "gate_proj" in name:
            up = state[name.replace("gate_proj", "up_proj")]
            name, tensor = name.replace("gate_proj", "weights_in"), torch.cat([tensor, up])
        if "up_proj" not in name:
            old[name] = tensor.contiguous()
    before = load_encoder_model(folder)(pixels())[0].patches
    save_file(old, path, {"format": "pt"})
    assert "encoder.layer.3.mlp.weights_in.weight" in load_file(path)
    assert torch.equal(load_encoder_model(folder)(pixels())[0].patches, before)


def test_web_maes_unused_pooler_and_old_names_do_no_harm(tmp_path: Path) -> None:
    """Web-MAE lies on the hub with a pooler, MAE under `vit.` and beside a decoder; both under older names."""
    from safetensors.torch import load_file, save_file

    encoder = make_encoder(tmp_path / "hub", "vit")
    before = load_encoder_model(encoder)(pixels())[0].patches
    path = tmp_path / "hub" / "model.safetensors"
    saved = load_file(path)
    old = [("layers.", "encoder.layer."), ("attention.o_proj", "attention.output.dense")]
    old += [("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense")]
    old += [(f"attention.{new}_proj", f"attention.attention.{was}") for new, was in zip("qkv", OLD, strict=True)]
    state = {}
    for name, tensor in saved.items():
        if "encoder.layer." not in name:
            for new, was in old:
                name = name.replace(new, was)
        state[name] = tensor
    assert "encoder.layer.1.attention.attention.query.weight" in state
    save_file({**state, "pooler.dense.weight": torch.ones(32, 32), "pooler.dense.bias": torch.ones(32)}, path, PT)
    assert torch.equal(load_encoder_model(encoder)(pixels())[0].patches, before)
    save_file({f"vit.{name}": tensor for name, tensor in state.items()} | {"decoder.mask": torch.ones(2)}, path, PT)
    assert torch.equal(load_encoder_model(encoder)(pixels())[0].patches, before)


OLD = ("query", "key", "value")
PT = {"format": "pt"}
