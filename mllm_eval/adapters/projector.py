"""The projector: resizes the patch grid to the token budget and maps it to the LLM's width. Stage 1 trains only it."""

from __future__ import annotations

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mllm_eval.errors import UserError


def grid_edge(tokens: int) -> int:
    """Tokens along one edge of a budget of `tokens`. Raises UserError if the budget is not a square number."""
    edge = math.isqrt(tokens)
    if edge * edge != tokens or tokens < 1:
        raise UserError(f"recipe: tokens: {tokens} is not a square, so no grid has it; use for example 576 (24 x 24)")
    return edge


def resize_grid(patches: Tensor, edge: int) -> Tensor:
    """Resize [B, h, w, D] to [B, edge, edge, D] bilinearly: in float32, align_corners off, no antialiasing.

    Cambrian interpolates in the same way, up (16 -> 24) and down (37 -> 24). The result has the input's dtype.
    """
    if patches.shape[1] == edge and patches.shape[2] == edge:
        return patches
    moved = patches.permute(0, 3, 1, 2).to(torch.float32)
    resized = F.interpolate(moved, size=(edge, edge), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1).to(patches.dtype)


class Projector(nn.Module):
    """Maps patch features [B, h, w, width] to image tokens [B, tokens, out].

    kind: `linear`, or `mlpNx_gelu` with N linear layers and GELU between them (N is 2 in Cambrian and Web-SSL).
    standardize: first shift and scale each dimension by the buffers `mean` and `std`, which `set_statistics` fills
    once from the alignment images. l2_normalize: scale each token to length 1 after the resize, as MetaMorph does.
    row_token: append a learned embedding to each row of the grid, which gives [B, tokens + rows, out], as in
    Cambrian-1; it is initialised as there, normal with a standard deviation of 1 / sqrt(out).

    Raises UserError for an unknown kind, and for a number of tokens that is not a square.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        width: int,
        out: int,
        tokens: int,
        kind: str = "mlp2x_gelu",
        standardize: bool = False,
        row_token: bool = False,
        l2_normalize: bool = False,
    ):
        super().__init__()
        self.edge = grid_edge(tokens)
        depth = 1 if kind == "linear" else 0
        if match := re.fullmatch(r"mlp([1-9])x_gelu", kind):
            depth = int(match.group(1))
        if depth == 0:
            raise UserError(f"recipe: projector: {kind!r} is unknown; use mlp2x_gelu, mlpNx_gelu or linear")
        layers: list[nn.Module] = [nn.Linear(width, out)]
        for _ in range(depth - 1):
            layers += [nn.GELU(), nn.Linear(out, out)]
        self.layers = nn.Sequential(*layers)
        self.l2_normalize = l2_normalize
        self.row_token = nn.Parameter(torch.randn(out) / math.sqrt(out)) if row_token else None
        self.standardize = standardize
        if standardize:
            self.register_buffer("mean", torch.zeros(width))
            self.register_buffer("std", torch.ones(width))

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Fill the buffers `mean` and `std` (each [width]). A dimension with std 0 is shifted but not scaled."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, torch.ones_like(std)))

    def forward(self, patches: Tensor) -> Tensor:
        if self.standardize:
            patches = (patches - self.mean) / self.std
        first = self.layers[0]
        assert isinstance(first, nn.Linear)
        tokens = resize_grid(patches, self.edge)
        if self.l2_normalize:
            tokens = F.normalize(tokens.float(), dim=-1)
        projected: Tensor = self.layers(tokens.to(first.weight.dtype))
        if self.row_token is not None:
            behind = self.row_token.to(projected.dtype).expand(*projected.shape[:2], 1, -1)
            projected = torch.cat([projected, behind], 2)
        return projected.flatten(1, 2)
