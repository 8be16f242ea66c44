"""The yaml of an encoder from a folder in the hub's format: what its config and its processor say of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mllm_eval.adapters import family
from mllm_eval.adapters.backbone import Backbone
from mllm_eval.adapters.examination import RESAMPLE
from mllm_eval.catalog import Encoder, load_encoder, names
from mllm_eval.catalog.families import NAMES, PAGE
from mllm_eval.catalog.llama import read_config
from mllm_eval.errors import UserError, near
from mllm_eval.storage import parse_json

PROCESSORS = ("preprocessor_config.json", "processor_config.json")
UNKNOWN = "not looked up"


@dataclass(frozen=True)
class Description:
    """text: the yaml. decide: what it leaves to a person, a line each."""

    text: str
    decide: tuple[str, ...]


@dataclass(frozen=True)
class Pixels:
    """What a processor says: `mode` and edge, the short side before a crop, mean, std, interpolation; None: unsaid."""

    mode: str | None = None
    size: int | None = None
    resize: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None


def describe(
    place: Path,
    name: str,
    weights: dict[str, str],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Description:
    """The yaml of the encoder in a folder. `mean` and `std` are for a folder without a processor.

    Raises UserError for a folder without a config, a model that no family reads (near names, and the page to read), and
    one that nothing says mean and std of.
    """
    path = place / "config.json"
    if place.is_file():
        raise UserError(
            f"{place}: is one file; only a folder in the hub's format says what it is. docs/add-an-encoder.md, "
            "'Checkpoints of the original code', says how to describe a file"
        )
    kind = _family(read_config(place), path)
    config = kind.read_config(place)
    found, depth = kind.found_in(config), int(config.num_hidden_layers)
    kin = _kin(kind.family_name())
    pixels = read_processor(place)
    own = {"mean": tuple(mean or ()) or pixels.mean, "std": tuple(std or ()) or pixels.std}
    for word, value in own.items():
        if value is None or len(value) != 3:
            raise UserError(f"{place}: no {word} of three channels in {' or '.join(PROCESSORS)}; say it with --{word}")
    shape: dict[str, Any] = {key: found[key] for key in ("heads", "ffn", "hidden", "native") if key in found}
    shape |= {"ffn": found.get("ffn", "mlp")} | ({"qkv_bias": found["qkv_bias"]} if "qkv_bias" in found else {})
    size = pixels.size or int(found["native"])
    interpolation = {} if pixels.interpolation in (None, "bicubic") else {"interpolation": pixels.interpolation}
    variants: dict[str, Any] = {"squash": {"mode": "squash", **interpolation}}
    if pixels.mode == "crop":
        variants["crop"] = {"mode": "crop", "resize": pixels.resize or size, **interpolation}
    fields: dict[str, Any] = {
        "name": name,
        "family": kind.family_name(),
        "weights": weights,
        "patch": int(found["patch"]),
        "width": int(found["width"]),
        "depth": depth,
        "architecture": shape,
        "feature_layer": kin.feature_layer if kin else -1,
        "norm": kin.norm if kin else True,
        "summary": kin.summary if kin else ("cls" if kind.form.prefix else "mean"),
        "preprocessing": {"mode": "pad", "size": size, "mean": list(own["mean"] or ()), "std": list(own["std"] or ())},
        "variants": variants,
        "facts": {
            "pretraining_data": UNKNOWN,
            "samples_seen": UNKNOWN,
            "supervision": kin.facts.supervision if kin else "none",
        },
    }
    return Description("".join(_lines(fields)), tuple(_decide(fields, kin, pixels, kind, size)))


def _lines(fields: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Yaml as the encoders here are written: one line a field, but for what holds more than plain values."""
    for key, value in fields.items():
        if isinstance(value, dict) and any(isinstance(one, dict) for one in value.values()):
            yield f"{indent}{key}:\n"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, dict):
            flow = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
            yield f"{indent}{key}: {flow}"
        else:
            yield indent + yaml.safe_dump({key: value}, allow_unicode=True)


def _decide(fields: dict[str, Any], kin: Encoder | None, pixels: Pixels, kind: type[Backbone], size: int) -> list[str]:
    as_kin = f"as {kin.name}, of the same family" if kin else "no encoder of this family is described yet"
    norm = "behind" if fields["norm"] else "before"
    theirs = {
        "crop": f"crops the centre (variant crop, short side {pixels.resize or size})",
        "squash": "squashes (variant squash)",
        "pad": "pads",
    }
    before, behind = kind.form.prefix + kind.form.registers, kind.form.behind
    return [
        f"feature_layer: {fields['feature_layer']} and norm: features {norm} the final norm ({as_kin})",
        f"summary: {fields['summary']} ({as_kin}); left out: {before} tokens before the patches, {behind} behind them",
        "preprocessing: mode pad keeps all of an image, as the other encoders here; the processor beside the weights "
        + (theirs[pixels.mode] if pixels.mode else "is not there: size is the native one"),
        f"facts: pretraining_data and samples_seen; supervision: {fields['facts']['supervision']} ({as_kin})",
    ]


def _family(raw: dict[str, Any], path: Path) -> type[Backbone]:
    kinds: list[type[Backbone]] = [kind for name in NAMES if issubclass(kind := family(name), Backbone)]
    types = {one: kind for kind in kinds for one in kind.model_types}
    found = raw.get("model_type")
    if found is None and "architecture" in raw:
        raise UserError(
            f"{path}: is of timm's {raw['architecture']!r}; its config says too little; write its yaml by hand, with "
            "`family: timm` (docs/add-an-encoder.md)"
        )
    if found not in types:
        known = ", ".join(sorted(types))
        hint = near(str(found), types)
        raise UserError(f"{path}: model_type {found!r}: no family reads it (known: {known}).{hint} {PAGE}")
    return types[found]


def _kin(name: str) -> Encoder | None:
    """A described encoder of the same family with released weights: what a person chose for it holds for others."""
    found = [one for one in map(load_encoder, names("encoders")) if one.family == name and one.weights.repo]
    return found[0] if found else None


def read_processor(place: Path) -> Pixels:
    """What the processor's file beside the weights says; nothing where there is none.

    Raises UserError for a file that cannot be read.
    """
    path = next((place / name for name in PROCESSORS if (place / name).is_file()), None)
    if path is None:
        return Pixels()
    try:
        said = parse_json(path.read_text(encoding="utf-8"), fields_once=False)
        said = said.get("image_processor", said)
        edge, crop = said.get("size"), said.get("crop_size")
        crops = bool(said.get("do_center_crop")) and crop is not None
        short = _edge(edge)
        size = _edge(crop) if crops else short
        return Pixels(
            mode="pad" if said.get("do_pad") else "crop" if crops else "squash",
            size=size,
            resize=short if crops else None,
            mean=_triple(said.get("image_mean")),
            std=_triple(said.get("image_std")),
            interpolation=RESAMPLE.get(str(said.get("resample"))),
        )
    except (OSError, ValueError, TypeError, AttributeError) as problem:
        raise UserError(f"{path}: cannot be read as a processor's config ({problem})") from None


def _edge(value: Any) -> int | None:
    if isinstance(value, dict):
        value = value.get("height") or value.get("shortest_edge")
    return int(value) if value else None


def _triple(value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    return (float(value),) * 3 if isinstance(value, int | float) else tuple(float(one) for one in value)
