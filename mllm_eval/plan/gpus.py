"""GPUs, and a laptop, by name: `8xH100` is eight of the entry H100 in configs/gpus.yaml."""

from __future__ import annotations

import re
from typing import NamedTuple

import pydantic

from mllm_eval.config import Strict, load
from mllm_eval.errors import UserError, near
from mllm_eval.storage import SHIPPED


class Gpu(Strict):
    """tflops, float32: peak dense TFLOP/s in bfloat16 and float32. gib: memory. tb_per_second: memory bandwidth."""

    tflops: float
    float32: float
    gib: float
    tb_per_second: float
    about: str

    def peak(self, dtype: str) -> float:
        """Peak TFLOP/s of matrix products in a dtype."""
        return self.float32 if dtype == "float32" else self.tflops


class KnownGpus(pydantic.RootModel[dict[str, Gpu]]):
    """Name -> GPU."""


class Gpus(NamedTuple):
    """Several GPUs of one kind: their number, the kind's name in configs/gpus.yaml, and its facts."""

    number: int
    name: str
    gpu: Gpu


def parse_gpus(text: str) -> Gpus:
    """Parse number and name of GPUs, such as `8xH100`. Raises UserError for another form or an unknown GPU."""
    match = re.fullmatch(r"([1-9]\d*)\s*x\s*(.+)", text.strip(), re.IGNORECASE)
    if match is None:
        raise UserError(f"gpus {text!r}: write their number and name, such as 8xH100")
    listed = load(SHIPPED / "configs" / "gpus.yaml", KnownGpus).root
    known = {name.upper(): (name, gpu) for name, gpu in listed.items()}
    name = match.group(2).upper()
    if name not in known:
        hint = f"{near(name, known)} Known: {', '.join(listed)} (configs/gpus.yaml)"
        raise UserError(f"gpus: {match.group(2)!r} is unknown.{hint}")
    return Gpus(int(match.group(1)), *known[name])
