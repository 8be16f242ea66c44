"""I-JEPA: no CLS token; every token is a patch. Its converted processor on the hub has a wrong mean and std."""

from __future__ import annotations

from mllm_eval.adapters.backbone import Backbone
from mllm_eval.adapters.original import VIT
from mllm_eval.catalog.architecture import FORMS


class Family(Backbone):
    """`IJepaModel` without its pooling head."""

    model_types = ("ijepa",)
    class_name = "IJepaModel"
    options = {"add_pooling_layer": False}  # noqa: RUF012
    blocks_at = "layers"
    norm_at = "layernorm"
    form = FORMS["ijepa"]
    left_out = r"(.*\.)?(classifier|pooler|decoder)\..*"
    layout = VIT
