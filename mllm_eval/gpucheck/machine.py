"""Measures the peak rates of this GPU, in products and copies, against its data sheet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor

from mllm_eval.config import load
from mllm_eval.gpucheck.session import Session
from mllm_eval.plan.gpus import Gpu, KnownGpus
from mllm_eval.storage import SHIPPED

# Required shares of the data sheet. An H200 reached 769 to 798 of 989 TFLOP/s, and 4.3 of 4.8 TB/s.
OF_PRODUCTS, OF_BANDWIDTH = 0.7, 0.75
# Largest relative error of a float32 product. TF32 keeps 10 bits of each factor and has an error of 3e-4.
FLOAT32 = 1e-5


def sheet(name: str) -> Gpu | None:
    """The data sheet for a GPU's name as its driver reports it; None if configs/gpus.yaml does not have it."""
    known = load(SHIPPED / "configs" / "gpus.yaml", KnownGpus).root
    # A key like `A100-40` includes the memory, which the name has as well: NVIDIA A100-SXM4-40GB.
    fitting = [key for key in known if all(part in name for part in key.split("-"))]
    return known[max(fitting, key=len)] if fitting else None


def product(one: Tensor, other: Tensor) -> Tensor:
    """A matrix product as in models."""
    return one @ other


@contextmanager
def planted() -> Iterator[None]:
    """Rounds the factors to bfloat16, which is more than TF32 does."""

    def rounded(one: Tensor, other: Tensor) -> Tensor:
        return one.bfloat16().to(one.dtype) @ other.bfloat16().to(one.dtype)

    with patch(f"{__name__}.product", rounded):
        yield


def check(session: Session) -> None:
    """Measures products in bfloat16 and float32, and copies within the device and to it."""
    device, facts = session.device, None if session.dry else sheet(session.device_name)
    size = 256 if session.dry else 8192
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    rate = 2 * size**3 / session.seconds(lambda: product(one, other), 5, 2) / 1e12
    name = "bfloat16 products, TFLOP/s"
    if facts is None:
        session.seen(name, rate, note="no data sheet of this device in configs/gpus.yaml")
    else:
        session.judge_on_gpu("bfloat16 products, share of the data sheet", rate / facts.tflops, ">=", OF_PRODUCTS)
        session.seen(name, rate)
    moved = _moved(session)
    if facts is None:
        session.seen("copies within the device", moved, "TB/s")
    else:
        share = moved / facts.tb_per_second
        session.judge_on_gpu("copies within the device, share of the data sheet", share, ">=", OF_BANDWIDTH)
    if not session.dry:
        host = torch.empty(512 * 2**20, dtype=torch.uint8)
        taken = session.seconds(lambda: host.to(device), 3)
        session.seen("pageable copies to the device", host.numel() / taken / 1e9, "GB/s")
        pinned = host.pin_memory()
        taken = session.seconds(lambda: pinned.to(device, non_blocking=True), 3)
        session.seen("pinned copies to the device", host.numel() / taken / 1e9, "GB/s")
    few = [torch.randn(512, 512, device=device) for _ in range(2)]
    exact = few[0].double() @ few[1].double()
    off = float((product(*few).double() - exact).norm() / exact.norm())
    session.judge("float32 products, error against float64", off, "<=", FLOAT32, note="TF32 would be off by 3e-4")


def _moved(session: Session) -> float:
    """The rate of a copy in TB/s, counting each byte as read once and written once."""
    held = torch.empty(2**20 if session.dry else 4 * 2**30, dtype=torch.uint8, device=session.device)
    to = torch.empty_like(held)
    return 2 * held.numel() / session.seconds(lambda: to.copy_(held), 5, 1) / 1e12
