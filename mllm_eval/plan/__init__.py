"""What a run will need before anything is fetched or computed: memory, work, hours, cost.

Arithmetic on the shapes that the yaml files state; no torch, no weights. Operations are counted by
`mllm_eval.operations`. The formulas and where they are from
are in docs/plan.md; the tests hold them against tensors that were counted and products that were counted.
"""

from __future__ import annotations

from mllm_eval.plan.estimate import Plan, PlanOptions, make_plan

__all__ = ["Plan", "PlanOptions", "make_plan"]
