"""mini-dino: images alone, no text ever.

Self-distillation as in DINO (Caron et al. 2021, arXiv:2104.14294, figure 2): a student learns from a teacher that is
the student's exponential mean and sees another view of the same image. What is distilled, and how:

- the view, by MoCo v3's contrastive loss (Chen et al. 2021, arXiv:2104.02057, algorithm 1) on the mean of the patches;
- the patches, by the same loss between places that show the same spot (DenseCL, Wang et al. 2021, arXiv:2011.09157),
  half of the student's patches being masked as in iBOT (Zhou et al. 2022, arXiv:2111.07832);
- the pixels of the masked patches (SimMIM, Xie et al. 2022, arXiv:2111.09886).

DINO's own loss over prototypes did not leave its starting value within 1,000 batches of 64; the contrastive form does
within 300.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from transformers import Dinov2Config, Dinov2Model

from mllm_eval.miniature.pretrain.images import pictures, pixels
from mllm_eval.miniature.pretrain.loop import Schedule, fit
from mllm_eval.miniature.world import SIZE, Picture

BATCH, WIDTH, JOINT, GRID, PATCH = 64, 128, 96, 8, 14
PLACES = 16
"""Patches of each image that are contrasted."""
TEMPERATURE = 0.15
LAYER = 4
Drawing = Callable[[str, int, int, bool], list[Picture]]
"""The pictures of a step: series, step, how many, whether all of one kind."""


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


class Whitened(nn.Module):
    """Batch norm without memory or parameters: at the start all features are nearly equal, this sets them apart."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., D] -> the same with mean 0 and variance 1 along all but the last dimension."""
        rows = x.flatten(0, -2)
        return (x - rows.mean(0)) * (rows.var(0, unbiased=False) + 1e-5).rsqrt()


def head(width: int, hidden: int) -> nn.Module:
    """Two layers to the space where views and patches are compared."""
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False), Whitened(), nn.GELU(), nn.Linear(hidden, JOINT, bias=False), Whitened()
    )


class Seen(nn.Module):
    """Backbone with the projections of views and patches: what student and teacher both have."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Dinov2Model(config())
        self.view, self.patch = head(WIDTH, 256), head(WIDTH, 256)


class Pair(nn.Module):
    """Student with its predictors, and the teacher, which never gets a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.student = Seen()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.learnt = nn.ModuleDict(
            {
                "student": self.student,
                "view": head(JOINT, 128),
                "patch": head(JOINT, 128),
                "redraw": nn.Linear(WIDTH, 3 * PATCH * PATCH),
            }
        )

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Moves the teacher towards the student."""
        for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            old.lerp_(new, 1 - momentum)


def view(images: torch.Tensor, jitter: float = 0.35) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A view of each image [B,3,112,112]: shifted, scaled, its colours mixed; with its scale [B] and shift [B,2].

    A point u of the view, in [-1, 1], shows the image's point scale * u + shift.
    """
    b = len(images)
    scale = torch.empty(b).uniform_(0.75, 1.05)
    shift = (torch.rand(b, 2) * 2 - 1) * 0.22
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = shift
    grid = functional.affine_grid(theta, [b, 3, SIZE, SIZE], align_corners=False)
    out = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    mix = torch.eye(3) + jitter * torch.randn(b, 3, 3) * (torch.rand(b, 1, 1) < 0.8)
    out = torch.einsum("bij,bjhw->bihw", mix, out) + 0.1 * torch.randn(b, 3, 1, 1)
    return out.clamp(-1.3, 1.3), scale, shift


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


def contrast(guess: torch.Tensor, target: torch.Tensor, known: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """InfoNCE and the share of rows found: guess, target [N,D], row by row; only rows and columns `known` [N] count."""
    near = functional.normalize(guess, dim=-1) @ functional.normalize(target, dim=-1).T / TEMPERATURE
    near = near.masked_fill(~known[None], -1e4)[known]
    right = torch.arange(len(guess))[known]
    return functional.cross_entropy(near, right), (near.argmax(1) == right).float().mean()


def losses(pair: Pair, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The three losses of one batch of images [B,3,112,112], each about 1 at the start, and the two accuracies."""
    n = len(images)
    shown, scale, shift = view(images)
    other, other_scale, other_shift = view(images)
    masks = block_masks(n)
    line = (torch.arange(GRID) + 0.5) / GRID * 2 - 1
    centres = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).flatten(0, 1)
    at = torch.stack([torch.randperm(GRID * GRID)[:PLACES] for _ in range(n)])
    spots = centres[at] * scale[:, None, None] + shift[:, None]
    spots = (spots - other_shift[:, None]) / other_scale[:, None, None]
    with torch.no_grad():
        taught = pair.teacher.backbone(other).last_hidden_state[:, 1:]
        view_target = pair.teacher.view(taught.mean(1))
        plane = pair.teacher.patch(taught).transpose(1, 2).unflatten(2, (GRID, GRID))
        sampled = functional.grid_sample(plane, spots[:, :, None], align_corners=False, padding_mode="border")
        patch_target = sampled[..., 0].transpose(1, 2).flatten(0, 1)
    out = pair.student.backbone(shown, bool_masked_pos=masks).last_hidden_state[:, 1:]
    guess = pair.learnt["view"](pair.student.view(out.mean(1)))
    view_loss, view_accuracy = contrast(guess, view_target, torch.ones(n, dtype=torch.bool))
    picked = out.gather(1, at[..., None].expand(-1, -1, WIDTH))
    guess = pair.learnt["patch"](pair.student.patch(picked)).flatten(0, 1)
    patch_loss, patch_accuracy = contrast(guess, patch_target, (spots.abs() <= 1).all(-1).flatten())
    pixel_loss = functional.smooth_l1_loss(pair.learnt["redraw"](out[masks]), patches_of(shown)[masks])
    return {
        "loss": view_loss / math.log(n) + patch_loss / math.log(n * PLACES) + 2.0 * pixel_loss,
        "view": view_loss,
        "patch": patch_loss,
        "pixel": pixel_loss,
        "view_accuracy": view_accuracy,
        "patch_accuracy": patch_accuracy,
    }


def features(backbone: Dinov2Model, images: torch.Tensor) -> torch.Tensor:
    """Patch features [B,64,128] of the layer that the encoder's yaml names: the last two serve the losses alone.

    A linear probe reads a printed word from layer 4 in 34.5 % of the pictures, from layer 6 in 27.8 %.
    """
    states = backbone(images, output_hidden_states=True).hidden_states[LAYER]
    patches: torch.Tensor = backbone.layernorm(states)[:, 1:]
    return patches


def pretrain(
    work: Path, steps: int, lr: float = 1e-3, shown_in: Drawing = pictures, seed: int = 0
) -> tuple[Dinov2Model, Path]:
    """Trains for `steps` steps of 64 images, three in four within one kind; returns the teacher and the log.

    shown_in: gives the pictures of a step; by default new ones at every step. seed: of weights, views and masks.
    """
    torch.manual_seed(seed)
    pair = Pair()

    def step_fn(step: int) -> dict[str, torch.Tensor]:
        shown = shown_in("clip" if not seed else f"clip/{seed}", step, BATCH, step % 4 != 0)
        return losses(pair, pixels([p.image for p in shown]))

    def after(step: int) -> None:
        pair.follow(1 - 0.01 * (1 - step / steps) - 0.0005)

    schedule = Schedule(steps, lr, warmup=200, seed=seed)
    log = fit("mini-dino", work, pair, step_fn, schedule, after=after, trainable=pair.learnt)
    return pair.teacher.backbone.eval(), log
