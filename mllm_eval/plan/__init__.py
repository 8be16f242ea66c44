"""Estimates what a run needs before anything is downloaded or computed: memory, operations, hours and cost.

It computes from the shapes in the yaml files, without torch and without weights. `mllm_eval.operations` counts the
operations. docs/plan.md has the formulas and their sources; the tests compare them with counted tensors and products.
"""

from __future__ import annotations

from mllm_eval.plan.estimate import Plan, PlanOptions, make_plan, make_plans

__all__ = ["Plan", "PlanOptions", "make_plan", "make_plans"]
