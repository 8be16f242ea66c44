"""MetaCLIP 2: its image tower is a CLIP with other names; `post_layernorm` was trained on the CLS token only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mllm_eval.catalog.architecture import FORMS

if TYPE_CHECKING:
    # mypy finds the file under this path; at run time it is part of mllm_eval.adapters.
    from adapters.clip import Family as Clip
else:
    from mllm_eval.adapters.clip import Family as Clip


class Family(Clip):
    """`MetaClip2VisionModel`. `pooled` is post_layernorm(CLS), the input of the text-image projection."""

    model_types = ("metaclip_2_vision_model", "metaclip_2")
    class_name = "MetaClip2VisionModel"
    form = FORMS["metaclip2"]
