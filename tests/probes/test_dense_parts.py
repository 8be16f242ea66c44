"""The parts of dense probes, where the result is known by hand or by torch's own layers and schedules."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import made_probes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tiny_models import make_encoder
from torch import Tensor

from mllm_eval.catalog import Encoder, Preprocessing
from mllm_eval.catalog.probe import DepthProbe, SegmentationProbe
from mllm_eval.probes.densehead import DenseHead, betas_at, rate_at
from mllm_eval.probes.denseviews import IGNORED, depth_view, segmentation_view
from mllm_eval.probes.depth import Depth
from mllm_eval.probes.segmentation import Segmentation

PLAIN = Preprocessing(mode="crop", size=28, resize=28, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def small(name: str, tmp_path: Path, **changes: Any) -> Any:
    return made_probes.protocol(name, tmp_path / "sets").model_copy(update=changes)


@pytest.fixture
def facts(tmp_path: Path) -> Encoder:
    return make_encoder(tmp_path / "encoder").model_copy(update={"preprocessing": PLAIN})


class Shown:
    """An example held in memory: a picture and the values of its mask or depth file."""

    map_path = "map.png"

    def __init__(self, picture: NDArray[np.uint8], values: NDArray[np.int64]) -> None:
        self._picture, self._values = picture, values

    def image(self) -> Image.Image:
        return Image.fromarray(self._picture)

    def values(self) -> NDArray[np.int64]:
        return self._values


def coded(height: int, width: int) -> NDArray[np.uint8]:
    """A picture whose red is the row and whose green is the column of a pixel."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], 2).astype(np.uint8)


# ---- segmentation ----
@pytest.mark.parametrize("shape", [(28, 28), (40, 65), (20, 47), (61, 28)])
def test_windows_are_laid_together_where_they_were_cut(shape: tuple[int, int], facts: Encoder, tmp_path: Path) -> None:
    task = Segmentation(small("ade20k_linear", tmp_path), facts)
    pixels = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    # Heads that answer each pixel with itself, twice itself, and a constant: averages over windows change none of them.
    own, doubled, constant = task.slid(pixels, lambda cut: [cut, 2 * cut, torch.full_like(cut, 7.0)])
    assert torch.allclose(own, pixels, atol=1e-6) and torch.allclose(doubled, 2 * pixels, atol=1e-6)
    assert torch.allclose(constant, torch.full_like(pixels, 7.0))


def test_overlapping_windows_are_averaged(facts: Encoder, tmp_path: Path) -> None:
    task = Segmentation(small("ade20k_linear", tmp_path), facts)
    seen: list[int] = []

    def numbered(cut: Tensor) -> list[Tensor]:
        made = torch.stack([torch.full((1, *cut.shape[2:]), float(len(seen) + at)) for at in range(len(cut))])
        seen.extend(range(len(cut)))
        return [made]

    # 47 columns: windows 0 to 28 and 19 to 47, of a crop of 28 and a stride of 19.
    (found,) = task.slid(torch.zeros(3, 28, 47), numbered)
    assert len(seen) == 2
    assert (found[0, :, :19] == 0).all() and (found[0, :, 19:28] == 0.5).all() and (found[0, :, 28:] == 1).all()


def by_column(classes: int) -> Any:
    """Logits whose largest says whether the green channel is below a half; position-coded, as in `coded`."""

    def logits(cut: Tensor) -> list[Tensor]:
        made = torch.zeros(len(cut), classes, *cut.shape[2:])
        made[:, 0], made[:, 2] = 0.5 - cut[:, 1], cut[:, 1] - 0.5
        return [made]

    return logits


@pytest.mark.slow
@pytest.mark.parametrize(("scales", "flip"), [([1.0], False), ([1.0], True), ([1.0, 2.0], True)])
def test_a_mirrored_view_is_turned_back_and_counts_are_those_by_hand(
    scales: list[float], flip: bool, facts: Encoder, tmp_path: Path
) -> None:
    task = Segmentation(small("ade20k_linear", tmp_path, scales=scales, test_flip=flip, shorter=30), facts)
    picture = np.zeros((30, 40, 3), np.uint8)
    picture[:, 10:, 1] = 255
    values = np.ones((30, 40), np.int64)
    values[:, 10:], values[0] = 3, 0
    (perfect,) = task.test(Shown(picture, values), by_column(3))  # type: ignore[arg-type]
    assert perfect.inside is not None and perfect.union is not None
    if scales == [1.0]:
        assert perfect.inside.tolist() == perfect.union.tolist() == [29 * 10, 0, 29 * 30]
    else:
        # A larger view is blurred at the edge alone.
        assert perfect.inside[0] >= 29 * 9 and perfect.inside[2] >= 29 * 29
    wrong = values.copy()
    wrong[values == 3] = 1
    (found,) = task.test(Shown(picture, wrong), by_column(3))  # type: ignore[arg-type]
    assert found.inside is not None and found.union is not None
    if scales == [1.0]:
        assert found.inside.tolist() == [290, 0, 0] and found.union.tolist() == [29 * 40, 0, 29 * 30]


def test_a_segmentation_crop_and_its_mask_stay_together(tmp_path: Path) -> None:
    plain = {"ratio": [1.0, 1.0], "shorter": 30, "brightness": 0.0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0),
             "hue": 0.0, "most": 1.0}  # fmt: skip
    protocol: SegmentationProbe = small("ade20k_linear", tmp_path, **plain)
    mask = (np.mgrid[:30, :40][1] // 10).astype(np.int64)
    places = set()
    for number in range(20):
        mirrored = protocol.model_copy(update={"flip": float(number % 2)})
        pixels, target = segmentation_view(
            Image.fromarray(coded(30, 40)), mask, mirrored, PLAIN, np.random.default_rng(number)
        )
        assert pixels.shape == (3, 28, 28) and target.shape == (28, 28)
        columns = np.rint(pixels[1] * 255).astype(int)
        assert np.array_equal(target, columns // 10)
        assert (np.diff(columns[0]) == (-1 if number % 2 else 1)).all()
        places.add((columns.min(), round(float(pixels[0].min() * 255))))
    assert len(places) > 5
    # A side shorter than the crop is filled up: black for the encoder's zero, ignored by the loss.
    low = protocol.model_copy(update={"shorter": 20, "flip": 0.0})
    pixels, target = segmentation_view(Image.fromarray(coded(20, 40)), mask[:20], low, PLAIN, np.random.default_rng(0))
    assert (target[20:] == IGNORED).all() and (pixels[:, 20:] == 0).all() and (target[:20] != IGNORED).all()


# ---- depth ----
def depth_task(tmp_path: Path, facts: Encoder, **changes: Any) -> Depth:
    return Depth(small("nyu_linear1", tmp_path, upsample=1, window=None, **changes), facts)


def reading(task: Depth, columns: Tensor) -> Tensor:
    """Logits [1, bins, 1, W] that read out as these depths: so large that the floor added to each is nothing."""
    protocol = task.protocol
    place = (columns - protocol.low) / (protocol.high - protocol.low) * (protocol.bins - 1)
    below = place.floor().clamp(0, protocol.bins - 2)
    made = torch.zeros(1, protocol.bins, 1, len(columns))
    for at in range(len(columns)):
        made[0, int(below[at]), 0, at] = 1e7 * float(1 - (place - below)[at])
        made[0, int(below[at]) + 1, 0, at] = 1e7 * float((place - below)[at])
    return made


def test_depth_is_the_mean_of_the_image_and_its_mirror_image(facts: Encoder, tmp_path: Path) -> None:
    task = depth_task(tmp_path, facts)
    upright, mirrored = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([6.0, 5.0, 4.0, 3.0])
    seen: list[Tensor] = []

    def logits(pixels: Tensor) -> list[Tensor]:
        seen.append(pixels)
        return [torch.cat([reading(task, upright), reading(task, mirrored)])]

    # The mirror image's answers are 3, 4, 5, 6 from the left: the mean is 2, 3, 4, 5, and each pixel is 1 m off.
    wanted = np.array([[1000, 2000, 3000, 4000]])
    (found,) = task.test(Shown(coded(1, 4), wanted), logits)  # type: ignore[arg-type]
    assert torch.equal(seen[0][1], seen[0][0].flip(2)) and not torch.equal(seen[0][0], seen[0][1])
    assert found.score == pytest.approx(1.0, abs=1e-3)


def test_errors_count_within_the_window_and_where_depth_is_known(facts: Encoder, tmp_path: Path) -> None:
    task = depth_task(tmp_path, facts)
    task.protocol = task.protocol.model_copy(update={"window": (1, 3, 1, 4)})
    wanted = np.full((4, 5), 9000)
    # Within: three pixels 1 m too far, one 2 m too near, one unknown, one beyond what the protocol measures.
    wanted[1:3, 1:4] = [[4000, 4000, 4000], [7000, 0, 20000]]

    def flat(pixels: Tensor) -> list[Tensor]:
        return [reading(task, torch.tensor([5.0])).expand(2, -1, 4, 5)]

    (found,) = task.test(Shown(coded(4, 5), wanted), flat)  # type: ignore[arg-type]
    assert found.score == pytest.approx(math.sqrt((3 * 1 + 4) / 4), abs=1e-3)


def test_a_depth_crop_and_its_depth_stay_together(tmp_path: Path) -> None:
    protocol: DepthProbe = small(
        "nyu_linear1", tmp_path, frame=(2, 3, 38, 29), crop=(20, 30), rotate_share=0.0, recolour=0.0
    )
    depth = (np.mgrid[:30, :40][1] + 1).astype(np.float32)
    for number in range(12):
        mirrored = protocol.model_copy(update={"flip": float(number % 2)})
        pixels, target = depth_view(
            Image.fromarray(coded(30, 40)), depth, mirrored, PLAIN, np.random.default_rng(number)
        )
        columns, rows = np.rint(pixels[1] * 255), np.rint(pixels[0] * 255)
        assert np.array_equal(target, columns + 1) and (np.diff(columns[0]) == (-1 if number % 2 else 1)).all()
        assert columns.min() >= 2 and columns.max() < 38 and rows.min() >= 3 and rows.max() < 29
    turned = protocol.model_copy(update={"rotate_share": 1.0, "rotate": 40.0, "frame": None, "crop": (30, 40)})
    unknown = [depth_view(Image.fromarray(coded(30, 40)), depth, turned, PLAIN, np.random.default_rng(at))[1]
               for at in range(4)]  # fmt: skip
    assert all((one == 0).any() and (one > 0).any() for one in unknown)
    # A frame smaller than the crop is filled up with depth that is not known.
    narrow = protocol.model_copy(update={"frame": (0, 0, 10, 12), "flip": 0.0})
    pixels, target = depth_view(Image.fromarray(coded(30, 40)), depth, narrow, PLAIN, np.random.default_rng(0))
    assert (target[12:] == 0).all() and (target[:, 10:] == 0).all() and (target[:12, :10] > 0).all()


# ---- head and schedule ----
@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_head_is_torchs_batch_norm_and_convolution(batch_norm: bool) -> None:
    draws = torch.Generator().manual_seed(3)
    head = DenseHead(6, 4, batch_norm, 1, "cpu")
    norm, linear = torch.nn.BatchNorm2d(6), torch.nn.Conv2d(6, 4, 1)
    with torch.no_grad():
        for name in set(head.learnt) - {"weight"}:
            head.learnt[name].normal_(generator=draws)
        linear.weight.copy_(head.learnt["weight"][:, :, None, None])
        linear.bias.copy_(head.learnt["bias"])  # type: ignore[union-attr]
        if batch_norm:
            norm.weight.copy_(head.learnt["gain"])
            norm.bias.copy_(head.learnt["shift"])
    for _ in range(3):
        features = torch.randn(2, 6, 5, 7, generator=draws) * 3 + 1
        flat = features.transpose(0, 1).flatten(1)
        mean, variance = flat.mean(1), flat.var(1, correction=0)
        expected = linear(norm(features) if batch_norm else features)
        assert torch.allclose(head.logits(features, mean, variance), expected, atol=1e-5)
        if batch_norm:
            head.follow(mean, variance, flat.shape[1])
            assert torch.allclose(head.mean, norm.running_mean, atol=1e-6)  # type: ignore[arg-type]
            assert torch.allclose(head.variance, norm.running_var, atol=1e-5)  # type: ignore[arg-type]
    other = torch.randn(1, 6, 3, 3, generator=draws)
    norm.eval()
    assert torch.allclose(head.tested(other), linear(norm(other) if batch_norm else other), atol=1e-5)
    assert not head.tested(other).requires_grad


def followed(schedules: Any, steps: int, rate: float) -> tuple[list[float], list[float]]:
    """The rates and first betas of AdamW under torch's own schedules, step by step."""
    stepping = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    every = schedules(stepping)
    rates, betas = [], []
    for _ in range(steps):
        rates.append(float(stepping.param_groups[0]["lr"]))
        betas.append(float(stepping.param_groups[0]["betas"][0]))
        stepping.step()
        for one in every:
            one.step()
    return rates, betas


def test_the_rate_of_segmentation_is_torchs_linear_fall_and_warm_up(tmp_path: Path) -> None:
    protocol = small("ade20k_linear", tmp_path, steps=40, warmup=8, warmup_from=1e-6, rate=0.05)
    torchs = torch.optim.lr_scheduler
    rates, _ = followed(
        lambda own: [torchs.PolynomialLR(own, 40, power=1.0), torchs.LinearLR(own, 1e-6, 1.0, total_iters=8)], 40, 0.05
    )
    assert [rate_at(protocol, step) for step in range(40)] == pytest.approx(rates, rel=1e-6)
    assert betas_at(protocol, 7) == protocol.betas


def test_the_rate_and_the_cycle_of_depth_are_torchs(tmp_path: Path) -> None:
    changes = {"steps": 40, "warmup": 10, "warmup_from": 0.001, "rate": 1e-4, "rate_to": 1e-3}
    protocol = small("nyu_linear1", tmp_path, cycle=(0.95, 0.85, 0.3), **changes)
    torchs = torch.optim.lr_scheduler
    rates, _ = followed(
        lambda own: [torchs.CosineAnnealingLR(own, 40, eta_min=1e-7), torchs.LinearLR(own, 0.001, 1.0, total_iters=10)],
        10, 1e-4,
    )  # fmt: skip
    closed = [1e-7 + (1e-4 - 1e-7) * (1 + math.cos(math.pi * at / 40)) / 2 for at in range(40)]
    assert [rate_at(protocol, step) for step in range(10, 40)] == pytest.approx(closed[10:])
    # torch's cosine goes by the last rate and so feels the warm-up; the factor of the warm-up is the same.
    warm = [rate_at(protocol, step) / closed[step] for step in range(10)]
    factors, _ = followed(lambda own: [torchs.LinearLR(own, 0.001, 1.0, total_iters=10)], 10, 1.0)
    assert warm == pytest.approx(factors) and rates[0] == pytest.approx(rate_at(protocol, 0))
    # torch turns one step earlier, since its last step is at the end of the cycle.
    _, momenta = followed(
        lambda own: [torchs.OneCycleLR(own, 1.0, total_steps=41, pct_start=13 / 41, base_momentum=0.85,
                                       max_momentum=0.95, cycle_momentum=True)], 41, 1e-4,
    )  # fmt: skip
    own = [betas_at(protocol, step)[0] for step in range(41)]
    assert own == pytest.approx(momenta, abs=1e-6) and min(own) == own[12] == pytest.approx(0.85)
    assert betas_at(protocol, 12)[1] == protocol.betas[1]
