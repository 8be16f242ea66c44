"""`mllm-eval check`: the facts in yaml files against the weights they name."""

from __future__ import annotations

from mllm_eval.catalog import load_encoder, names
from mllm_eval.environment import before_torch
from mllm_eval.errors import UserError


def check_encoders(name: str | None) -> bool:
    """Load one encoder, or all, and print what is right and what is not; True if all is right.

    Raises:
        UserError: an unknown name.
    """
    before_torch()
    from mllm_eval.adapters import load_encoder_model

    right = True
    for encoder in [load_encoder(name)] if name else [load_encoder(known) for known in names("encoders")]:
        try:
            model = load_encoder_model(encoder)
        except UserError as error:
            right = False
            print(f"{encoder.name}: {error}")
            continue
        print(
            f"{encoder.name}: ok; family {encoder.family}, patch {encoder.patch}, grid {model.grid} x {model.grid}, "
            f"width {encoder.width}, depth {encoder.depth}, {encoder.params:,} params, "
            f"weights {encoder.weights.digest()[:12]}"
        )
    return right
