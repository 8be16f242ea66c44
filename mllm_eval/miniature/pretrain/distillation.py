"""mini-dino: images alone, no text ever.

DINOv2's two losses on one student (Oquab et al. 2023, arXiv:2304.07193, section 4): DINO between the class tokens of
different views, and iBOT between the student's masked patches and the teacher's, both with Sinkhorn-Knopp centring;
the teacher is an exponential mean of the student. A light head that redraws the masked patches (SimMIM, Xie et al.
2021, arXiv:2111.09886) is added, for pixels give a gradient from the first step on.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from transformers import Dinov2Config, Dinov2Model

from mllm_eval.miniature.pretrain.images import pictures, pixels
from mllm_eval.miniature.pretrain.loop import fit
from mllm_eval.miniature.world import SIZE

BATCH, WIDTH, PROTOTYPES, GRID, PATCH = 64, 128, 512, 8, 14
LOCAL = 70


def config() -> Dinov2Config:
    """DINOv2's transformer, 1.3 M parameters, patch 14 on 112 x 112."""
    return Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=PATCH,
        layerscale_value=0.5,
    )


def head() -> nn.Module:
    """Projection to prototypes."""
    return nn.Sequential(
        nn.Linear(WIDTH, 256),
        nn.GELU(),
        nn.Linear(256, 64),
        Unit(),
        nn.utils.parametrizations.weight_norm(nn.Linear(64, PROTOTYPES, bias=False)),
    )


class Unit(nn.Module):
    """Scales rows to length one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., D] -> the same with unit L2 norm along D."""
        return functional.normalize(x, dim=-1)


class Student(nn.Module):
    """Backbone with the heads for views, patches and pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Dinov2Model(config())
        self.view, self.patch = head(), head()
        self.redraw = nn.Linear(WIDTH, 3 * PATCH * PATCH)


class Pair(nn.Module):
    """Student and teacher; the teacher never gets a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.student = Student()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Moves the teacher towards the student."""
        for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            old.lerp_(new, 1 - momentum)


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, temperature: float = 0.06) -> torch.Tensor:
    """Three rounds of Sinkhorn-Knopp: rows become soft assignments that use all prototypes equally."""
    q = torch.exp((scores - scores.amax()) / temperature)
    for _ in range(3):
        q = q / q.sum(0, keepdim=True).clamp_min(1e-12) / q.shape[1]
        q = q / q.sum(1, keepdim=True).clamp_min(1e-12) / q.shape[0]
    return q * q.shape[0]


def crops(images: torch.Tensor, size: int, low: float, high: float) -> torch.Tensor:
    """One random square crop of each image, resized to `size`; side between `low` and `high` of the image."""
    b = len(images)
    side = torch.empty(b).uniform_(low, high)
    shift = (torch.rand(b, 2) * 2 - 1) * (1 - side)[:, None]
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = shift
    grid = functional.affine_grid(theta, [b, 3, size, size], align_corners=False)
    out = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    gain = 1 + 0.15 * torch.randn(b, 1, 1, 1)
    return (out * gain + 0.08 * torch.randn(b, 3, 1, 1)).clamp(-1.2, 1.2)


def block_masks(b: int) -> torch.Tensor:
    """Masks [B, 64] bool: some scattered patches and one or two blocks, about half of the grid."""
    masks = torch.rand(b, GRID, GRID) < 0.25
    for row in masks:
        for _ in range(2):
            h, w = (int(torch.randint(2, 5, (1,))) for _ in range(2))
            y, x = (int(torch.randint(0, GRID - n + 1, (1,))) for n in (h, w))
            row[y : y + h, x : x + w] = True
    return masks.flatten(1)


def patches_of(images: torch.Tensor) -> torch.Tensor:
    """[B,3,112,112] -> [B,64,588] pixels by patch, each patch standardised (MAE's target)."""
    flat = functional.unfold(images, PATCH, stride=PATCH).transpose(1, 2)
    return (flat - flat.mean(-1, keepdim=True)) / (flat.var(-1, keepdim=True) + 0.02).sqrt()


def losses(pair: Pair, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The four losses of one batch of images [B,3,112,112]."""
    student, teacher = pair.student, pair.teacher
    whole = crops(images, SIZE, 0.85, 1.0)
    masks = block_masks(len(images))
    with torch.no_grad():
        seen = teacher.backbone(whole).last_hidden_state
        view_target = sinkhorn(teacher.view(seen[:, 0]))
        patch_target = sinkhorn(teacher.patch(seen[:, 1:][masks]))
    out = student.backbone(whole, bool_masked_pos=masks).last_hidden_state
    hidden = out[:, 1:][masks]
    patch_loss = -(patch_target * functional.log_softmax(student.patch(hidden) / 0.1, -1)).sum(-1).mean()
    pixel_loss = functional.smooth_l1_loss(student.redraw(hidden), patches_of(whole)[masks])
    views = [out[:, 0], student.backbone(crops(images, LOCAL, 0.45, 0.75)).last_hidden_state[:, 0]]
    view_loss = torch.stack(
        [-(view_target * functional.log_softmax(student.view(v) / 0.1, -1)).sum(-1).mean() for v in views]
    ).mean()
    unit = functional.normalize(out[:, 0], dim=-1)
    near = (unit @ unit.T).fill_diagonal_(-1.0).amax(1)
    spread = -torch.log((2 - 2 * near).clamp_min(1e-6).sqrt() + 1e-4).mean()
    total = view_loss / math.log(PROTOTYPES) + patch_loss / math.log(PROTOTYPES) + 2.0 * pixel_loss + 0.05 * spread
    return {"loss": total, "view": view_loss, "patch": patch_loss, "pixel": pixel_loss, "spread": spread}


def pretrain(work: Path, steps: int, schedule: int = 1600, lr: float = 1e-3) -> tuple[Dinov2Model, Path]:
    """Trains for `steps` steps of 64 images on a longer schedule; returns the teacher's backbone and the log."""
    torch.manual_seed(0)
    pair = Pair()

    def step_fn(step: int) -> dict[str, torch.Tensor]:
        shown = pictures("clip", step, BATCH, one_kind=step % 2 == 0)
        return losses(pair, pixels([p.image for p in shown]))

    def after(step: int) -> None:
        pair.follow(1 - 0.01 * (1 - step / schedule) - 0.0005)

    log = fit(
        "mini-dino",
        work,
        pair,
        step_fn,
        steps=schedule,
        until=steps,
        lr=lr,
        warmup=300,
        after=after,
        trainable=pair.student,
    )
    return pair.teacher.backbone.eval(), log
