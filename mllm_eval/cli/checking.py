"""`mllm-eval check`: the facts in yaml files against the weights they name, and what an encoder does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mllm_eval.catalog import Encoder, load_encoder, names
from mllm_eval.environment import before_torch, device
from mllm_eval.errors import UserError

if TYPE_CHECKING:
    from mllm_eval.adapters.base import EncoderModel
    from mllm_eval.adapters.examination import Examination


def check_encoders(name: str | None) -> bool:
    """Load one encoder, or all that are on this machine, and print what is right and what is not.

    True if all is right. Encoders whose weights were not fetched are named, and are no fault, unless asked for.

    Raises:
        UserError: an unknown name.
    """
    before_torch()
    right = True
    for encoder in [load_encoder(name)] if name else [load_encoder(known) for known in names("encoders")]:
        try:
            lines, fine = _check(encoder, skip_absent=name is None)
        except UserError as error:
            lines, fine = [f"{encoder.name}: {error}"], False
        right = right and fine
        print(*lines, sep="\n")
    return right


def _check(encoder: Encoder, skip_absent: bool) -> tuple[list[str], bool]:
    from mllm_eval.adapters import load_encoder_model, weights_place
    from mllm_eval.adapters.examination import examine

    try:
        place = weights_place(encoder.weights)
    except UserError:
        if skip_absent and encoder.weights.source() is not None:
            return [f"{encoder.name}: not on this machine, nothing to check"], True
        raise
    model = load_encoder_model(encoder).to(device())
    found = examine(model, place if place.is_dir() else None)
    return _told(model, found), found.repeatable


def _told(model: EncoderModel, found: Examination) -> list[str]:
    facts, way = model.facts, model.facts.preprocessing
    dropped = f", {model.prefix} before them dropped" if model.prefix else ", none before them"
    layer = facts.feature_layer + facts.depth + 1 if facts.feature_layer < 0 else facts.feature_layer
    norm = "final norm applied" if facts.norm else "without the final norm"
    weight = next(model.parameters())
    said = {
        "weights": facts.weights.digest()[:12],
        "grid": f"{model.grid} x {model.grid}, {model.grid**2} tokens of {model.width}{dropped}",
        "dtype": f"{str(weight.dtype).removeprefix('torch.')} on {weight.device.type}",
        "repeatable": f"{'yes' if found.repeatable else 'NO'}; alone or in a batch, largest difference "
        f"{found.batch_difference:.1e}",
        "in order": "yes" if found.ordered else "NO: a change in the last patch moves another token most",
        "features": f"layer {layer} of {facts.depth}, {norm}; mean {found.mean:.3f}, std {found.std:.3f}",
        "norms": f"of the tokens: median {found.median_norm:.2f}, largest {found.largest_norm:.2f}",
        "pixels": f"{way.mode} to {way.size} x {way.size}, {way.interpolation}"
        + ("" if found.processor else "; no processor beside the weights"),
    }
    verdict = "ok" if found.repeatable else "its features are not the same twice"
    shape = f"family {facts.family}, patch {facts.patch}, depth {facts.depth}, {facts.params:,} params"
    head = f"{facts.name}: {verdict}; {shape}"
    lines = [head, *(f"  {name:<11}{text}" for name, text in said.items())]
    lines += [f"  {'processor':<11}{text}" for text in found.processor]
    return lines + [f"  {'differs':<11}{text}" for text in found.differs]
