"""Time the heads of the ImageNet probe, and the cost of masks and depth relative to a forward pass.

    python bench/probes.py [--quick] [--rounds 3] [--out FILE]

`heads`: one training step of 52 heads on features in memory, against a dictionary of 52 modules as in the released
code, where each module concatenates its own input, 52 losses are added, and one SGD has 52 parameter groups. Both start
from the same weights, and the two ways alternate. `largest_gap` is the largest difference of a weight after all steps.
`products_ms` is the time of the two matrix products of a step, which both ways must compute; `bound` is the speedup if
everything else took no time.
`masks`, `depth`: seconds of counting one image's mask, and of computing depth from logits, as a share of the encoder's
forward pass on that image. Writes results/bench/probes.json.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from harness import report, timed
from torch import Tensor, nn

from mllm_eval.environment import before_torch

RATES = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1]
GOAL = 10.0
# Sums of float32 in another order. A wrong rate, momentum or schedule moves weights of 0.01 by far more.
LARGEST_GAP = 1e-4
# Name, batch, width, patches, classes.
SIZES = [
    ("miniature", 64, 128, 64, 36),
    ("miniature, 10 classes", 64, 128, 64, 10),
    ("ViT-S/14, 100 classes", 128, 384, 256, 100),
    ("ViT-S/14, 1,000 classes", 128, 384, 256, 1000),
]


class Probe(nn.Module):
    """One head of the dictionary. It concatenates summaries of the last blocks and, if `mean`, the mean patch token."""

    def __init__(self, width: int, blocks: int, mean: bool, classes: int, weight: Tensor) -> None:
        super().__init__()
        self.blocks, self.mean = blocks, mean
        self.linear = nn.Linear(width * (blocks + mean), classes)
        with torch.no_grad():
            self.linear.weight.copy_(weight)
            self.linear.bias.zero_()

    def forward(self, outputs: list[tuple[Tensor, Tensor]]) -> Tensor:
        chosen = outputs[-self.blocks :]
        parts = [summary for _, summary in chosen]
        if self.mean:
            parts.append(chosen[-1][0].mean(1))
        logits: Tensor = self.linear(torch.cat(parts, -1).float())
        return logits


def heads(name: str, batch: int, width: int, patches: int, classes: int, steps: int, rounds: int) -> dict[str, Any]:
    """One table row: milliseconds per training step in both ways, from the outputs of four blocks.

    Raises AssertionError if a weight differs by `LARGEST_GAP` or more between the two ways after all steps.
    """
    from mllm_eval.probes.grid import Descent, Heads, Input

    draws = torch.Generator().manual_seed(0)
    outputs = [
        (torch.randn(batch, patches, width, generator=draws), torch.randn(batch, width, generator=draws))
        for _ in range(4)
    ]
    labels = torch.randint(0, classes, (batch,), generator=draws)
    inputs = [Input(layers, mean) for layers in ((4,), (1, 2, 3, 4)) for mean in (False, True)]
    own = Heads(inputs, [rate * batch / 256 for rate in RATES], classes, (1, 2, 3, 4), width, Descent(0.01, 0.9, 0))
    begun = [weight.clone() for weight in own.weights]
    modules = nn.ModuleDict()
    groups = []
    for at, one in enumerate(inputs):
        for number, rate in enumerate(RATES):
            weight = own.weights[at][number * classes : (number + 1) * classes]
            module = Probe(width, len(one.layers), one.patch_mean, classes, weight)
            modules[f"{at}_{number}"] = module
            groups.append({"params": module.parameters(), "lr": rate * batch / 256})
    stepping = torch.optim.SGD(groups, momentum=0.9, weight_decay=0)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(stepping, steps, eta_min=0)

    def dictionary() -> None:
        for _ in range(steps):
            answers = {key: module(outputs) for key, module in modules.items()}
            losses = {key: nn.functional.cross_entropy(answer, labels) for key, answer in answers.items()}
            stepping.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            stepping.step()
            falling.step()

    def together() -> None:
        for step in range(steps):
            # A probe stacks the encoder's outputs in this way once per batch.
            features = torch.stack(
                [torch.stack([summary for _, summary in outputs], 1),
                 torch.stack([one[0].mean(1) if at == 3 else one[1] for at, one in enumerate(outputs)], 1)],
                1,
            )  # fmt: skip
            own.step(features, labels, step / steps)

    plain, quick = timed(dictionary), timed(together)
    # The weights are compared here, after equally many steps; further rounds below only measure time.
    gap = max(
        float(
            (own.weights[at][n * classes : (n + 1) * classes] - modules[f"{at}_{n}"].linear.weight.detach()).abs().max()
        )
        for at in range(len(inputs))
        for n in range(len(RATES))
    )
    moved = max(float((one - first).abs().max()) for one, first in zip(own.weights, begun, strict=True))
    assert gap < LARGEST_GAP < moved, f"{name}: weights of the two ways differ by {gap}, having moved by {moved}"
    inputs_seen = [
        torch.cat(
            [summary for _, summary in outputs[-len(one.layers) :]] + [outputs[-1][0].mean(1)] * one.patch_mean, 1
        )
        for one in inputs
    ]
    errors = [torch.randn(len(RATES) * classes, batch, generator=draws) / batch for _ in inputs]
    sums = [torch.zeros_like(weight) for weight in own.weights]

    def products() -> None:
        for _ in range(steps):
            for seen, weight, wrong, into in zip(inputs_seen, own.weights, errors, sums, strict=True):
                torch.mm(weight, seen.T)
                into.addmm_(wrong, seen, beta=0.9)

    products()
    # They alternate, so that other load on the machine affects all three.
    turns = [(timed(dictionary), timed(together), timed(products)) for _ in range(rounds)] if rounds > 1 else [
        (plain, quick, timed(products))
    ]  # fmt: skip
    plain, quick, least = ({name: median(turn[at][name] for turn in turns) for name in plain} for at in range(3))
    ratio = plain["cpu_seconds"] / quick["cpu_seconds"]
    return {
        "heads": name, "batch": batch, "classes": classes, "dictionary_ms": 1000 * plain["cpu_seconds"] / steps,
        "together_ms": 1000 * quick["cpu_seconds"] / steps, "products_ms": 1000 * least["cpu_seconds"] / steps,
        "times_cpu": ratio, "times_wall": plain["wall_seconds"] / quick["wall_seconds"],
        "bound": plain["cpu_seconds"] / least["cpu_seconds"], "largest_gap": gap, "reached": ratio >= GOAL,
    }  # fmt: skip


def dense(quick: bool, rounds: int) -> list[dict[str, Any]]:
    """Table rows: seconds of counting a mask and of computing depth, and of the forward pass of the same image."""
    import transformers

    from mllm_eval.probes.depth import read_out, upsampled
    from mllm_eval.probes.segmentation import counted

    config = transformers.Dinov2Config(hidden_size=384, num_hidden_layers=2 if quick else 12, num_attention_heads=6)
    model = transformers.Dinov2Model(config).eval()
    rows = []
    answer, mask = (torch.randint(0, 150, (512, 683)) for _ in range(2))
    with torch.inference_mode():
        for name, size, outputs in (("masks, 512 x 683", (518, 686), 150), ("depth, 480 x 640", (490, 644), 256)):
            pixels = torch.randn(1, 3, *size)
            grid = (size[0] // 14, size[1] // 14)
            logits = torch.randn(1, outputs, *grid)

            def work(logits: Tensor = logits, outputs: int = outputs) -> Any:
                return counted(answer, mask, 150) if outputs == 150 else read_out(upsampled(logits, 4), 0.001, 10)

            # A warm-up: the first call also loads code.
            work()
            model(pixels)
            turns = [(timed(partial(model, pixels)), timed(work)) for _ in range(rounds)]
            forward, own = ({name: median(turn[at][name] for turn in turns) for name in turns[0][0]} for at in (0, 1))
            share = own["cpu_seconds"] / forward["cpu_seconds"]
            rows.append({"beside": name, "forward_s": forward["cpu_seconds"], "own_s": own["cpu_seconds"],
                         "share": share, "reached": share <= 0.1})  # fmt: skip
    return rows


def main() -> None:
    """Run both timings, print their tables, and write them to the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="so many of the four sizes, the smallest first")
    parser.add_argument("--quick", action="store_true", help="the smallest size alone, two blocks")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    before_torch()
    sizes = SIZES[: 1 if given.quick else given.sizes]
    rows = [heads(*size, given.steps if size[4] < 1000 else 3, given.rounds) for size in sizes]
    rows += dense(given.quick, given.rounds)
    report(
        "probes", {"threads": torch.get_num_threads(), "steps": given.steps, "rounds": given.rounds}, rows, given.out
    )


if __name__ == "__main__":
    main()
