"""MetaCLIP 2: the image half is a CLIP under names of its own; `post_layernorm` is for the CLS token only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mllm_eval.catalog.architecture import FORMS

if TYPE_CHECKING:
    # Its name by its path; at run time the families are part of mllm_eval.adapters.
    from adapters.clip import Family as Clip
else:
    from mllm_eval.adapters.clip import Family as Clip


class Family(Clip):
    """`MetaClip2VisionModel`; pooled = post_layernorm(CLS), the vector that the text projection sees."""

    model_types = ("metaclip_2_vision_model", "metaclip_2")
    class_name = "MetaClip2VisionModel"
    form = FORMS["metaclip2"]
