"""Writes the yaml of an encoder from the config and the processor in a hub-format folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from mllm_eval.adapters import family
from mllm_eval.adapters.backbone import Backbone
from mllm_eval.adapters.examination import RESAMPLE
from mllm_eval.adapters.original import TENSORS, hold_format
from mllm_eval.catalog import Encoder, load_encoder, names
from mllm_eval.catalog.families import NAMES, PAGE
from mllm_eval.catalog.llamaconfig import read_config
from mllm_eval.errors import UserError, exception_words, near
from mllm_eval.storage import parse_json

PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
OPEN_CLIP = "open_clip_config.json"
UNKNOWN = "not looked up"


@dataclass(frozen=True)
class Description:
    """A yaml as text, and the decisions that it leaves to the user, one line each (`decide`)."""

    text: str
    decide: tuple[str, ...]


@dataclass(frozen=True)
class Pixels:
    """What a processor's config says about pixels. A field is None if the config does not say it.

    mode: `pad`, `crop` or `squash`. size: edge in pixels. resize: short side in pixels before a crop.
    """

    mode: str | None = None
    size: int | None = None
    resize: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None


@dataclass(frozen=True)
class Model:
    """What a folder's config says about its model.

    shape: the yaml's `architecture`; None for timm, where `params` is counted instead. kin: a known encoder of the
    same family, whose choices are taken over. before, behind: numbers of tokens before and after the patches.
    """

    family: str
    patch: int
    width: int
    depth: int
    native: int
    shape: dict[str, Any] | None
    params: int | None
    norm: bool
    summary: str
    before: int
    behind: int
    kin: Encoder | None = None


def describe(
    place: Path,
    name: str,
    weights: dict[str, str],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Description:
    """Write the yaml of the encoder in a folder. `mean` and `std` take precedence over the processor's.

    Raises UserError for a folder without a config or weights, for a format without named tensors, and for a model
    that no family reads (with the nearest names). It also does if neither processor nor arguments give mean and std.
    """
    hold_format(place)
    if place.is_file() or (not (place / "config.json").is_file() and (place / OPEN_CLIP).is_file()):
        what = "is one file" if place.is_file() else f"holds a checkpoint of open_clip ({OPEN_CLIP})"
        raise UserError(
            f"{place}: {what}; only a folder in the hub's format says what it is. docs/add-an-encoder.md, "
            "'Checkpoints of the original code', says how to describe a file"
        )
    raw, path = read_config(place), place / "config.json"
    if not any(one.suffix in TENSORS for one in place.iterdir()):
        raise UserError(
            f"{place}: holds no weights, {' or '.join(f'*{suffix}' for suffix in TENSORS)}; "
            "take a folder or repository that has them"
        )
    if raw.get("model_type") is None and "architecture" in raw:
        model, pixels = _of_timm(place), read_timm_pixels(raw, path)
    else:
        model, pixels = _of_backbone(_family(raw, path), place), read_processor(place)
    own = {"mean": tuple(mean or ()) or pixels.mean, "std": tuple(std or ()) or pixels.std}
    for word, value in own.items():
        if value is None or len(value) != 3:
            raise UserError(f"{place}: no {word} of three channels in {' or '.join(PROCESSORS)}; say it with --{word}")
    size = pixels.size or model.native
    interpolation = {} if pixels.interpolation in (None, "bicubic") else {"interpolation": pixels.interpolation}
    variants: dict[str, Any] = {"squash": {"mode": "squash", **interpolation}}
    if pixels.mode == "crop":
        variants["crop"] = {"mode": "crop", "resize": pixels.resize or size, **interpolation}
    fields: dict[str, Any] = {
        "name": name,
        "family": model.family,
        "weights": weights,
        "patch": model.patch,
        "width": model.width,
        "depth": model.depth,
        **({"params": model.params} if model.shape is None else {"architecture": model.shape}),
        "feature_layer": model.kin.feature_layer if model.kin else -1,
        "norm": model.norm,
        "summary": model.summary,
        "preprocessing": {"mode": "pad", "size": size, "mean": list(own["mean"] or ()), "std": list(own["std"] or ())},
        "variants": variants,
        "facts": {
            "pretraining_data": UNKNOWN,
            "samples_seen": UNKNOWN,
            "supervision": model.kin.facts.supervision if model.kin else "none",
        },
    }
    return Description("".join(_lines(fields)), tuple(_decide(fields, model, pixels, size)))


def _of_backbone(kind: type[Backbone], place: Path) -> Model:
    config = kind.read_config(place)
    facts, kin = kind.found_in(config), _kin(kind.family_name())
    shape: dict[str, Any] = {key: facts[key] for key in ("heads", "ffn", "hidden", "native") if key in facts}
    shape |= {"ffn": facts.get("ffn", "mlp")} | ({"qkv_bias": facts["qkv_bias"]} if "qkv_bias" in facts else {})
    return Model(
        family=kind.family_name(),
        patch=int(facts["patch"]),
        width=int(facts["width"]),
        depth=int(config.num_hidden_layers),
        native=int(facts["native"]),
        shape=shape,
        params=None,
        norm=kind.form.final_norm and (kin is None or kin.norm),
        summary=kin.summary if kin else ("cls" if kind.form.prefix else "mean"),
        before=kind.form.prefix + kind.form.registers,
        behind=kind.form.behind,
        kin=kin,
    )


def _of_timm(place: Path) -> Model:
    """Build the architecture that timm's config names on the meta device, and read its facts there."""
    timm: Any = family("timm")
    kinds = [kind for name in NAMES if issubclass(kind := family(name), timm)]
    config, refused = timm.read_config(place), []
    for kind in kinds:
        one: Any = kind
        try:
            with torch.device("meta"):
                made = one.made(str(place / "config.json"), config)
        except UserError as problem:
            refused.append(problem)
            continue
        facts, before = one.found_in(made), one.prefix_of(made)
        has_cls = getattr(made, "cls_token", None) is not None
        return Model(
            family=one.__module__.rpartition(".")[2],
            patch=int(facts["patch"]),
            width=int(facts["width"]),
            depth=len(one.blocks_of(made)),
            native=int(made.default_cfg["input_size"][-1]),
            shape=None,
            params=sum(parameter.numel() for parameter in made.parameters()),
            norm=not isinstance(one.norm_of(made), torch.nn.Identity),
            summary="cls" if has_cls else "mean",
            before=before,
            behind=0,
        )
    raise refused[0]


def _lines(fields: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Yield yaml lines in the style of configs/encoders: one line for each field whose values are plain."""
    for key, value in fields.items():
        if isinstance(value, dict) and any(isinstance(one, dict) for one in value.values()):
            yield f"{indent}{key}:\n"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, dict):
            flow = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
            yield f"{indent}{key}: {flow}"
        else:
            yield indent + yaml.safe_dump({key: value}, allow_unicode=True)


def _decide(fields: dict[str, Any], model: Model, pixels: Pixels, size: int) -> list[str]:
    as_kin = f"as {model.kin.name}, of the same family" if model.kin else "no encoder that is described decides this"
    norm = "behind the final norm" if fields["norm"] else "not normed"
    theirs = {
        "crop": f"crops the centre (variant crop, short side {pixels.resize or size})",
        "squash": "squashes (variant squash)",
        "pad": "pads",
    }
    return [
        f"feature_layer: {fields['feature_layer']} and norm: features {norm} ({as_kin})",
        f"summary: {fields['summary']} ({as_kin}); left out: {model.before} tokens before the patches (CLS and "
        f"registers), {model.behind} behind them",
        "preprocessing: mode pad keeps all of an image, as the other encoders here; the processor beside the weights "
        + (theirs[pixels.mode] if pixels.mode else "is not there: size is the native one"),
        f"facts: pretraining_data and samples_seen; supervision: {fields['facts']['supervision']} ({as_kin})",
    ]


def _family(raw: dict[str, Any], path: Path) -> type[Backbone]:
    kinds: list[type[Backbone]] = [kind for name in NAMES if issubclass(kind := family(name), Backbone)]
    types = {one: kind for kind in kinds for one in kind.model_types}
    model_type = raw.get("model_type")
    if model_type not in types:
        known = ", ".join(sorted(types))
        hint = near(str(model_type), types)
        raise UserError(f"{path}: model_type {model_type!r}: no family reads it (known: {known}).{hint} {PAGE}")
    return types[model_type]


def _kin(name: str) -> Encoder | None:
    """Find a known encoder of this family with released weights. Its choices are the defaults for new ones."""
    kin = [one for one in map(load_encoder, names("encoders")) if one.family == name and one.weights.source()]
    return kin[0] if kin else None


def read_processor(place: Path) -> Pixels:
    """Read the processor's config beside the weights. All fields are None if there is none.

    Raises UserError for a file that cannot be read.
    """
    path = next((place / name for name in PROCESSORS if (place / name).is_file()), None)
    if path is None:
        return Pixels()
    try:
        said = parse_json(path.read_text(encoding="utf-8"), fields_once=False)
        said = said.get("image_processor", said)
        edge, crop = said.get("size"), said.get("crop_size")
        plain = said.get("do_normalize") is False
        crops = bool(said.get("do_center_crop")) and crop is not None
        short = _edge(edge)
        size = _edge(crop) if crops else short
        return Pixels(
            mode="pad" if said.get("do_pad") else "crop" if crops else "squash",
            size=size,
            resize=short if crops else None,
            mean=(0.0,) * 3 if plain else _triple(said.get("image_mean")),
            std=(1.0,) * 3 if plain else _triple(said.get("image_std")),
            interpolation=RESAMPLE.get(str(said.get("resample"))),
        )
    except (OSError, ValueError, TypeError, AttributeError) as problem:
        raise UserError(f"{path}: cannot be read as a processor's config ({problem})") from None


def read_timm_pixels(raw: dict[str, Any], path: Path) -> Pixels:
    """Read what timm's config says about pixels; all fields None if nothing. Raises UserError if it is unreadable."""
    said = raw.get("pretrained_cfg")
    if said is None:
        return Pixels()
    try:
        size = int(said["input_size"][-1]) if "input_size" in said else None
        mode = {"center": "crop", "squash": "squash", "border": "pad"}.get(said.get("crop_mode", "center"))
        return Pixels(
            mode=mode,
            size=size,
            resize=int(size / float(said.get("crop_pct", 0.875))) if size else None,
            mean=_triple(said.get("mean")),
            std=_triple(said.get("std")),
            interpolation=said.get("interpolation") if said.get("interpolation") in RESAMPLE.values() else None,
        )
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as problem:
        raise UserError(f"{path}: `pretrained_cfg` cannot be read ({exception_words(problem)})") from None


def _edge(value: Any) -> int | None:
    if isinstance(value, dict):
        value = value.get("height") or value.get("shortest_edge")
    return int(value) if value else None


def _triple(value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    return (float(value),) * 3 if isinstance(value, int | float) else tuple(float(one) for one in value)
