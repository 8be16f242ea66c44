"""DINOv2 with registers: `dinov2` with four learned tokens between CLS and the patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mllm_eval.catalog.architecture import FORMS

if TYPE_CHECKING:
    # mypy finds the file under this path; at run time it is part of mllm_eval.adapters.
    from adapters.dinov2 import Family as Dinov2
    from mllm_eval.catalog import Encoder
else:
    from mllm_eval.adapters.dinov2 import Family as Dinov2


class Family(Dinov2):
    """`Dinov2WithRegistersModel`. The registers after CLS are left out of the patch grid."""

    model_types = ("dinov2_with_registers",)
    class_name = "Dinov2WithRegistersModel"
    form = FORMS["dinov2_with_registers"]

    @classmethod
    def shape_values(cls, facts: Encoder) -> dict[str, Any]:
        """The values of `dinov2`, and the number of registers."""
        return {**super().shape_values(facts), "num_register_tokens": cls.form.registers}
