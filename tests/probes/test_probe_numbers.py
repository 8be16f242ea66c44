"""The arithmetic of probes against what is known without data: separate heads, counts by hand, other libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats as scipy_stats

from mllm_eval.catalog.layers import chosen_layers
from mllm_eval.catalog.probe import LogisticProbe, load_protocol
from mllm_eval.errors import UserError
from mllm_eval.probes.denseviews import IGNORED, scaled_size
from mllm_eval.probes.depth import read_out, sig_loss, upsampled
from mllm_eval.probes.grid import Descent, Heads, Input
from mllm_eval.probes.neighbours import nearest, votes
from mllm_eval.probes.order import Order
from mllm_eval.probes.segmentation import counted
from mllm_eval.probes.views import drawing, random_box
from mllm_eval.probes.windows import padded, windows
from mllm_eval.stats.imageratios import ImageSums, image_draws, image_interval, image_pair

WIDTH, CLASSES, STEPS, BATCH = 6, 4, 15, 12


@pytest.mark.slow
def test_52_heads_are_52_separate_runs_of_torchs_own_sgd() -> None:
    rates = [0.01 * 1.7**power for power in range(13)]
    inputs = [Input(layers, mean) for layers in ((4,), (1, 2, 3, 4)) for mean in (False, True)]
    heads = Heads(inputs, rates, CLASSES, (1, 2, 3, 4), WIDTH, Descent(0.01, 0.9, 3))
    assert len(heads) == 52
    draws = torch.Generator().manual_seed(5)
    batches = [torch.randn(BATCH, 2, 4, WIDTH, generator=draws) for _ in range(STEPS)]
    labels = [torch.randint(0, CLASSES, (BATCH,), generator=draws) for _ in range(STEPS)]
    first = [weight.clone() for weight in heads.weights]
    for step in range(STEPS):
        heads.step(batches[step], labels[step], step / STEPS)
    found = heads.logits(batches[0])
    for at, one in enumerate(inputs):
        for number, rate in enumerate(rates):
            parts = [batch[:, 0, [layer - 1 for layer in one.layers]].flatten(1) for batch in batches]
            if one.patch_mean:
                parts = [torch.cat([part, batch[:, 1, 3]], 1) for part, batch in zip(parts, batches, strict=True)]
            alone = torch.nn.Linear(parts[0].shape[1], CLASSES)
            with torch.no_grad():
                alone.weight.copy_(first[at][number * CLASSES : (number + 1) * CLASSES])
                alone.bias.zero_()
            stepping = torch.optim.SGD(alone.parameters(), lr=rate, momentum=0.9, weight_decay=0)
            falling = torch.optim.lr_scheduler.CosineAnnealingLR(stepping, STEPS, eta_min=0)
            for part, label in zip(parts, labels, strict=True):
                stepping.zero_grad()
                torch.nn.functional.cross_entropy(alone(part), label).backward()
                stepping.step()
                falling.step()
            own = found[:, at * len(rates) + number]
            assert torch.allclose(own, alone(parts[0]), atol=1e-4, rtol=1e-4), (one, rate)


def test_heads_go_on_from_what_was_kept() -> None:
    made = [Heads([Input((1,), True)], [0.1, 0.3], 3, (1,), 5, Descent(0.01, 0.9, 1)) for _ in range(2)]
    draws = torch.Generator().manual_seed(2)
    batches = [(torch.randn(8, 2, 1, 5, generator=draws), torch.randint(0, 3, (8,), generator=draws)) for _ in range(6)]
    for step, batch in enumerate(batches):
        made[0].step(*batch, step / 6)
        if step < 3:
            made[1].step(*batch, step / 6)
    again = Heads([Input((1,), True)], [0.1, 0.3], 3, (1,), 5, Descent(0.01, 0.9, 9))
    again.restore({name: one.clone() for name, one in made[1].state().items()})
    for step, batch in list(enumerate(batches))[3:]:
        again.step(*batch, step / 6)
    assert all(torch.equal(one, again.state()[name]) for name, one in made[0].state().items())


def test_even4_always_holds_the_last_block() -> None:
    for depth in range(1, 60):
        (even,) = chosen_layers("even4", depth, "x")
        assert even[-1] == depth and len(even) == min(4, depth) and even[0] >= 1
    assert chosen_layers("even4", 26, "x") == [(7, 13, 20, 26)]
    assert chosen_layers("even4", 40, "x") == [(10, 20, 30, 40)]
    assert chosen_layers("last4", 3, "x") == [(1, 2, 3)]
    assert chosen_layers("all", 3, "x") == [(1,), (2,), (3,)]
    assert chosen_layers("-1,2", 6, "x") == [(2, 6)]
    for wrong, said in (("lats4", "Did you mean 'last4'"), ("0", "blocks 1 to 6"), ("7", "blocks 1 to 6")):
        with pytest.raises(UserError, match=said):
            chosen_layers(wrong, 6, "encoder x")


@pytest.mark.parametrize("shape", [(512, 683), (300, 1000), (512, 512), (100, 90), (853, 853), (1024, 513)])
def test_windows_cover_every_pixel_and_stay_inside(shape: tuple[int, int]) -> None:
    count = np.zeros(shape, int)
    found = windows(*shape, (512, 512), 341)
    for top, bottom, left, right in found:
        assert 0 <= top < bottom <= shape[0] and 0 <= left < right <= shape[1]
        assert bottom - top == min(512, shape[0]) and right - left == min(512, shape[1])
        count[top:bottom, left:right] += 1
    assert count.min() >= 1
    along = [max(side - 512 + 341 - 1, 0) // 341 + 1 for side in shape]
    assert len(found) == along[0] * along[1]


def test_padding_is_even_and_to_whole_patches() -> None:
    made = padded(torch.ones(1, 3, 480, 640), 14)
    assert made.shape[2:] == (490, 644)
    assert made[0, 0, 4].sum() == 0 and made[0, 0, 5].sum() == 640 and made[0, 0, 484].sum() == 640
    assert padded(torch.ones(1, 3, 512, 512), 14).shape[2:] == (518, 518)


def test_equal_logits_read_out_as_the_mean_of_the_bins() -> None:
    for value in (-3.0, 0.0, 2.5):
        found = read_out(torch.full((1, 256, 2, 3), value), 0.001, 10)
        assert torch.allclose(found, torch.full((1, 2, 3), (0.001 + 10) / 2), atol=1e-5)
    peak = torch.zeros(1, 256, 1, 1)
    peak[0, 255] = 1e6
    assert read_out(peak, 0.001, 10).item() == pytest.approx(10, abs=1e-3)


def test_a_linear_layer_and_a_finer_grid_may_change_places() -> None:
    draws = torch.Generator().manual_seed(0)
    features, weight, bias = (torch.randn(*size, generator=draws) for size in ((2, 12, 5, 7), (9, 12, 1, 1), (9,)))
    published = torch.nn.functional.conv2d(upsampled(features, 4), weight, bias)
    own = upsampled(torch.nn.functional.conv2d(features, weight, bias), 4)
    assert own.shape == (2, 9, 20, 28) and torch.allclose(own, published, atol=1e-5)


def test_the_depth_loss_knows_a_scaled_target() -> None:
    wanted = torch.rand(1, 6, 6) * 5 + 1
    wanted[0, 0, 0] = 0
    # A factor on all depths has no variance in the logarithm, only a mean.
    lost = sig_loss(wanted.clamp_min(1e-9) * 2, wanted, 0.15, still=False)
    assert lost.item() == pytest.approx(math.sqrt(0.15) * math.log(2), abs=2e-3)
    assert sig_loss(wanted.clamp_min(1e-9) * 2, wanted, 0.15, True).item() == pytest.approx(lost.item(), abs=1e-3)
    noisy = wanted.clamp_min(1e-9) * (1 + torch.rand(1, 6, 6))
    assert sig_loss(noisy, wanted, 0.15, False) > sig_loss(noisy, wanted, 0.15, True)
    assert sig_loss(wanted, torch.zeros_like(wanted), 0.15, False).item() == 0


@pytest.mark.slow
def test_miou_is_counted_over_the_set_and_absent_classes_are_left_out() -> None:
    from torchmetrics.classification import MulticlassConfusionMatrix

    rng = np.random.default_rng(0)
    masks = [rng.integers(0, 3, (8, 9)) for _ in range(5)]
    for mask in masks:
        mask[0, :4] = IGNORED
    answers = [np.where(rng.random((8, 9)) < 0.6, np.where(mask == IGNORED, 0, mask), 1) for mask in masks]
    parts = [counted(torch.from_numpy(a), torch.from_numpy(m), 5) for a, m in zip(answers, masks, strict=True)]
    sums = ImageSums(
        np.stack([100.0 * one.inside for one in parts]),  # type: ignore[operator]
        np.stack([one.union for one in parts]).astype(float),  # type: ignore[arg-type]
    )
    by_hand = []
    for number in range(5):
        inside = sum(int(((a == number) & (m == number)).sum()) for a, m in zip(answers, masks, strict=True))
        union = sum(
            int((((a == number) & (m != IGNORED)) | (m == number)).sum()) for a, m in zip(answers, masks, strict=True)
        )
        if union:
            by_hand.append(100 * inside / union)
    assert len(by_hand) == 3
    assert sums.value == pytest.approx(np.mean(by_hand))
    oracle = MulticlassConfusionMatrix(5, ignore_index=IGNORED)
    for answer, mask in zip(answers, masks, strict=True):
        oracle.update(torch.from_numpy(answer), torch.from_numpy(mask))
    table = oracle.compute().numpy()
    iou = np.diag(table) / np.maximum(1, table.sum(0) + table.sum(1) - np.diag(table))
    assert sums.value == pytest.approx(100 * iou[:3].mean())
    per_image = np.mean([ImageSums(sums.numerator[[at]], sums.denominator[[at]]).value for at in range(5)])
    assert abs(per_image - sums.value) > 1e-6


@pytest.mark.slow
def test_counting_a_mask_takes_no_table_of_pixels_times_squared_classes() -> None:
    # 180,000 pixels x 150^2 classes would be 32 GB of numbers.
    mask = torch.zeros(400, 450, dtype=torch.int64)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        found = counted(torch.ones_like(mask), mask, 150)
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert found.union is not None and found.union[0] == found.union[1] == 180_000 and found.union.sum() == 360_000


def test_neighbours_are_those_of_scikit_learn_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(1)
    references, queries = rng.normal(size=(130, 5)), rng.normal(size=(17, 5))
    labels = rng.integers(0, 4, 130)
    monkeypatch.setattr("mllm_eval.probes.neighbours.ROWS", 32)
    rows = torch.from_numpy(references)
    cosines, places = nearest(torch.from_numpy(queries), lambda a, b: rows[a:b], 130, 20)
    for k in (1, 10, 20):
        oracle = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.07)
        ).fit(references, labels)
        assert np.array_equal(oracle.kneighbors(queries, return_distance=False), places[:, :k])
        own = votes(cosines[:, :k], torch.from_numpy(labels)[places[:, :k]], 4, 0.07)
        assert np.array_equal(oracle.predict(queries), own.numpy())


def test_logistic_regression_is_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression

    from mllm_eval.probes.logistic import fitted, strengths

    protocol = load_protocol("in1k_logreg")
    assert isinstance(protocol, LogisticProbe)
    tried = strengths(protocol)
    assert len(tried) == 45 and tried[0] == pytest.approx(1e-6) and tried[-1] == pytest.approx(1e5)
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 90)
    rows = rng.normal(size=(90, 4)) + labels[:, None]
    small = protocol.model_copy(update={"tolerance": 1e-8})
    oracle = LogisticRegression(C=0.5, max_iter=1000, tol=1e-8).fit(rows, labels)
    far = fitted(small, 100.0, rows, labels)
    assert np.allclose(fitted(small, 0.5, rows, labels, far).coef_, oracle.coef_, atol=1e-3)


def test_every_example_comes_once_before_any_comes_twice() -> None:
    order = Order(10, 4, 7)
    seen = [place for step in order.steps(0, 5) for place in step]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]
    assert list(order.steps(2, 3)) == [seen[8:12]]


def test_random_crops_are_as_asked_and_the_same_again() -> None:
    shares = []
    for number in range(400):
        left, top, right, bottom = random_box(drawing(0, 1, number), 160, 120, (0.08, 1.0), (3 / 4, 4 / 3))
        assert 0 <= left < right <= 160 and 0 <= top < bottom <= 120
        shares.append((right - left) * (bottom - top) / (160 * 120))
        assert 0.7 < (right - left) / (bottom - top) < 1.42
    assert min(shares) < 0.15 and max(shares) > 0.8 and 0.35 < np.mean(shares) < 0.6
    again = random_box(drawing(0, 1, 3), 160, 120, (0.08, 1.0), (3 / 4, 4 / 3))
    assert again == random_box(drawing(0, 1, 3), 160, 120, (0.08, 1.0), (3 / 4, 4 / 3))
    assert random_box(drawing(0, 0, 0), 1000, 10, (0.9, 1.0), (3 / 4, 4 / 3)) == (493, 0, 506, 10)
    assert scaled_size(*Image.new("L", (30, 20)).size, 40) == (60, 40)


@pytest.mark.slow
def test_the_interval_of_an_accuracy_covers_and_the_test_agrees_with_mcnemar() -> None:
    rng = np.random.default_rng(3)
    a = (rng.random(400) < 0.7).astype(float)
    b = np.where(rng.random(400) < 0.25, rng.random(400) < 0.4, a).astype(float)
    sums = ImageSums.of_scores(a, 100.0)
    limits = image_interval(sums, image_draws([sums], seed=1)[0])
    error = 100 * math.sqrt(a.mean() * (1 - a.mean()) / 399)
    assert limits.value == pytest.approx(100 * a.mean())
    assert limits.low == pytest.approx(limits.value - 1.96 * error, abs=0.5)
    assert limits.high == pytest.approx(limits.value + 1.96 * error, abs=0.5)
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    oracle = scipy_stats.binomtest(only_a, only_a + only_b).pvalue
    tested = image_pair(sums, ImageSums.of_scores(b, 100.0))
    assert tested.p == pytest.approx(oracle, rel=0.4, abs=2e-4) and tested.difference.value > 0
    assert image_pair(sums, sums).p == 1.0


def test_images_that_failed_leave_both_sides_and_classes_are_not_what_is_drawn() -> None:
    scores = np.array([1.0, math.nan, 0.0, 1.0])
    sums = ImageSums.of_scores(scores, 100.0)
    assert sums.valid == 3 and sums.value == pytest.approx(200 / 3)
    assert image_pair(sums, ImageSums.of_scores(np.array([1.0, 1.0, math.nan, 0.0]), 100.0), flips=200).n == 2
    # One class that one image alone has: in draws without that image the class is left out.
    inside = np.array([[10.0, 0.0], [10.0, 0.0], [10.0, 5.0]])
    one = ImageSums(100 * inside, np.array([[10.0, 0.0], [10.0, 0.0], [10.0, 10.0]]))
    draws = image_draws([one], 500)[0]
    assert one.value == pytest.approx(75) and {round(float(value), 3) for value in draws} == {75.0, 100.0}
    # All right: certainty is not claimed.
    right = ImageSums.of_scores(np.ones(80), 100.0, 100.0)
    limits = image_interval(right, image_draws([right], 10)[0])
    assert (limits.high, limits.low) == (100.0, pytest.approx(100 * 0.025 ** (1 / 80)))
    single = ImageSums.of_scores(np.array([1.0, math.nan]))
    assert math.isnan(image_interval(single, image_draws([single], 10)[0]).low)
