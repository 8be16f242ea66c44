"""TIPSv2: DINOv2's transformer with one register, which is a second class token trained with other captions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mllm_eval.catalog.architecture import FORMS, ratio_of

if TYPE_CHECKING:
    # mypy finds the file under this path; at run time it is part of mllm_eval.adapters.
    from adapters.dinov2 import Family as Dinov2
    from mllm_eval.catalog import Encoder
else:
    from mllm_eval.adapters.dinov2 import Family as Dinov2


class Family(Dinov2):
    """`Tipsv2VisionModel`. CLS is the token trained with web captions; the second one is left out of the grid."""

    model_types = ("tipsv2_vision_model", "tipsv2")
    class_name = "Tipsv2VisionModel"
    form = FORMS["tipsv2"]
    left_out = r"(text_encoder|text_model)\..*|temperature|logit_(scale|bias)"
    layout = None

    @classmethod
    def shape_values(cls, facts: Encoder) -> dict[str, Any]:
        """The values of `dinov2`, where the ratio of an MLP need not be whole, and the number of registers."""
        shape = facts.architecture
        assert shape is not None
        gated = shape.ffn == "swiglu"
        ratio = super().shape_values(facts)["mlp_ratio"] if gated else ratio_of(shape.hidden, facts.width)
        return {"mlp_ratio": ratio, "use_swiglu_ffn": gated, "num_register_tokens": cls.form.registers}
