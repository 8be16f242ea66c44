"""The statistics against scipy, statsmodels, closed forms and simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from mllm_eval import stats
from mllm_eval.errors import UserError
from mllm_eval.stats import Estimator, Units, bootstrap


def _names(prefix: str, codes: Any) -> list[str]:
    return [f"{prefix}{code}" for code in codes]


def _plain(score: Any, cluster: Any = None) -> Units:
    codes = range(len(score)) if cluster is None else cluster
    names = _names("c", codes)
    return stats.summed(Estimator(), score, names, _names("g", range(len(score))), [None] * len(score))


MME = Estimator(sample=100, group=100, strata="sum")


def _mme(right: list[tuple[str, str, float]]) -> Units:
    """(task, image, score) of each question; cluster and group are the image."""
    images = [image for _, image, _ in right]
    return stats.summed(MME, [s for *_, s in right], images, images, [task for task, *_ in right])


# === the value ===


def test_plain_value_is_the_mean_in_per_cent() -> None:
    assert _plain([1, 0, 0.5, 1]).value == pytest.approx(62.5)


def test_failed_samples_leave_the_value() -> None:
    assert _plain([1, 0, np.nan, 1]).value == pytest.approx(200 / 3)


def test_mme_adds_acc_and_acc_plus_of_every_task() -> None:
    units = _mme(
        [
            ("existence", "1", 1),
            ("existence", "1", 1),
            ("existence", "2", 1),
            ("existence", "2", 0),
            ("count", "3", 1),
            ("count", "3", 0),
        ]
    )
    assert units.value == pytest.approx((75 + 50) + (50 + 0))


def test_the_same_image_in_two_tasks_is_two_pairs_but_one_cluster() -> None:
    one = [("a", "1", 1), ("a", "1", 1), ("b", "1", 0), ("b", "1", 1), ("a", "2", 0), ("a", "2", 0)]
    units = _mme(one)
    assert units.value == pytest.approx((50 + 50) + (50 + 0))
    assert units.clusters == ("1", "2")
    twice = [(task, str(int(image) + more), score) for more in (0, 2) for task, image, score in one]
    assert _mme(twice).clusters == ("1", "2", "3", "4")
    assert _mme(twice).layer.tolist() in ([0, 1, 0, 1], [1, 0, 1, 0])


def test_samples_without_a_stratum_do_not_count() -> None:
    units = stats.summed(MME, [1, 1, 0, 0], ["1", "1", "2", "2"], ["1", "1", "2", "2"], ["a", "a", None, ""])
    assert units.value == pytest.approx(200)
    assert units.clusters == ("1",)


def test_circular_groups_need_every_row() -> None:
    score, group = [1, 1, 1, 0, 1, 1], ["q1", "q1", "q2", "q2", "q3", "q3"]
    units = stats.summed(Estimator(sample=0, group=100), score, group, group, [None] * 6)
    assert units.value == pytest.approx(200 / 3)


def test_a_group_with_a_failed_row_is_failed_not_wrong() -> None:
    group = ["q1", "q1", "q2", "q2"]
    units = stats.summed(Estimator(sample=0, group=100), [1, 1, np.nan, 0], group, group, [None] * 4)
    assert units.value == pytest.approx(100)


def test_a_failed_question_takes_its_pair_out_of_acc_too() -> None:
    units = _mme([("a", "1", 1), ("a", "1", np.nan), ("a", "2", 0), ("a", "2", 1)])
    assert units.value == pytest.approx(50 + 0)


def test_a_pair_of_two_images_is_drawn_as_one() -> None:
    units = stats.summed(
        Estimator(sample=0, group=100),
        [1, 1, 0, 1],
        ["i1", "i2", "i3", "i4"],
        ["p1", "p1", "p2", "p2"],
        [None] * 4,
    )
    assert units.clusters == ("i1", "i3")
    assert units.value == pytest.approx(50)


def test_mean_of_two_sources_is_not_the_pooled_mean() -> None:
    source = ["ADE20K", "ADE20K", "COCO", "COCO", "COCO", "COCO"]
    names = _names("", range(6))
    units = stats.summed(Estimator(strata="mean"), [1, 0, 0, 1, 1, 1], names, names, source)
    assert units.value == pytest.approx(62.5)


@given(st.permutations(range(12)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_samples_changes_nothing(order: list[int]) -> None:
    score = np.array([1, 0, 1, 1, 0, 0, 1, 1, np.nan, 1, 0, 1])
    image = np.array(_names("i", [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]))
    task = np.array(list("aaaabbbbbccc"))
    one = stats.summed(MME, score, image, image, task)
    two = stats.summed(MME, score[order], image[order], image[order], task[order])
    assert one.clusters == two.clusters
    np.testing.assert_array_equal(one.numerator, two.numerator)
    np.testing.assert_array_equal(stats.distribution([one], 50), stats.distribution([two], 50))


@pytest.mark.parametrize(
    "data, wrong",
    [
        ({"smaple": 1}, "smaple"),
        ({"strata": "added"}, "added"),
        ({"sample": 0}, "weight"),
        ({"group": "x"}, "numbers"),
    ],
)
def test_estimator_data_is_checked(data: dict[str, Any], wrong: str) -> None:
    with pytest.raises(UserError, match=f"yaml.*{wrong}"):
        Estimator.parse(data, "some.yaml")


def test_estimator_data_may_count_groups_alone() -> None:
    assert Estimator.parse({"sample": 0, "group": 100}, "y") == Estimator(0.0, 100.0, "pooled")
    assert Estimator.parse({"group": "50", "strata": "mean"}, "y") == Estimator(100.0, 50.0, "mean")


# === intervals ===


@pytest.mark.slow
def test_standard_error_is_that_of_cluster_robust_least_squares() -> None:
    api = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(1)
    cluster = rng.integers(0, 40, 300)
    score = (rng.random(300) < 0.3 + 0.4 * (cluster % 2)).astype(float)
    fit = api.OLS(score, np.ones(300)).fit(cov_type="cluster", cov_kwds={"groups": cluster, "use_correction": False})
    n = len(np.unique(cluster))
    assert _plain(score, cluster).error == pytest.approx(100 * fit.bse[0] * np.sqrt(n / (n - 1)))


def test_bootstrap_agrees_with_scipy_without_clusters() -> None:
    score = (np.random.default_rng(2).random(400) < 0.6).astype(float)
    units = _plain(score)
    ours = stats.value_interval(units, stats.distribution([units], 8000)[0])
    theirs = scipy_stats.bootstrap(
        (100 * score,), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.4)
    assert ours.high == pytest.approx(theirs.high, abs=0.4)


def test_bootstrap_variance_is_the_closed_form() -> None:
    """Also for three clusters a layer, where drawing n of n would give two thirds of it."""
    rows = [
        (task, f"{task}{i}", float(s))
        for task, right in (("a", (1, 0, 1)), ("b", (0, 0, 1)))
        for i, s in enumerate(right)
        for _ in range(2)
    ]
    units = _mme(rows)
    assert stats.distribution([units], 40_000).std() == pytest.approx(units.error, rel=0.02)


def test_questions_on_one_image_do_not_count_as_many() -> None:
    score = np.repeat((np.random.default_rng(3).random(50) < 0.5).astype(float), 20)
    alone, together = _plain(score), _plain(score, np.repeat(np.arange(50), 20))
    wide = stats.value_interval(together, stats.distribution([together], 2000)[0])
    narrow = stats.value_interval(alone, stats.distribution([alone], 2000)[0])
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(np.sqrt(20), rel=0.15)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_all_wrong_and_all_right_do_not_claim_certainty(score: float) -> None:
    units = _plain([score] * 30)
    found = stats.value_interval(units, stats.distribution([units], 100)[0])
    exact = scipy_stats.binomtest(int(30 * score), 30).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((100 * exact.low, 100 * exact.high))


@pytest.mark.slow
@pytest.mark.parametrize("mme", [False, True])
def test_intervals_cover_the_truth(mme: bool) -> None:
    """300 made-up experiments with correlated questions; 95 % should cover, 90 % must (3.9 sigma below)."""
    rng, covered, rounds = np.random.default_rng(5), 0, 300
    hits = scipy_stats.beta(3, 2)
    for number in range(rounds):
        skill = hits.rvs(60, random_state=rng)
        score = (rng.random((60, 2)) < skill[:, None]).astype(float)
        images = np.repeat(_names("i", range(60)), 2)
        if mme:
            units = stats.summed(MME, score.ravel(), images, images, np.repeat(["a", "b"], 60))
            truth = 2 * 100 * (hits.mean() + hits.moment(2))
        else:
            units = _plain(score.ravel(), np.repeat(np.arange(60), 2))
            truth = 100 * hits.mean()
        found = stats.value_interval(units, stats.distribution([units], 1000, number)[0])
        covered += found.low <= truth <= found.high
    assert 0.90 <= covered / rounds <= 0.99


def test_an_image_alone_in_its_two_strata_is_drawn_with_those_of_one_of_them() -> None:
    images = ["alone", "alone", "x", "x", "y", "y", "z", "z"]
    tasks = ["b", "c", "a", "b", "a", "b", "a", "b"]
    units = stats.summed(MME, [1.0] * 8, images, images, tasks)
    assert len(units.clusters) == 4 and len(set(units.layer.tolist())) == 1


def test_each_draw_weighs_as_much_as_the_images_of_a_layer() -> None:
    layer = np.array([0] * 5 + [1] * 3 + [2])
    weights = np.concatenate(list(bootstrap.draw_weights(layer, 40, 3)))
    assert weights.shape == (40, 9) and len(np.unique(weights, axis=0)) > 20
    for part, count in ((0, 5), (1, 3), (2, 1)):
        np.testing.assert_allclose(weights[:, layer == part].sum(1), count, rtol=1e-6)


def test_draws_do_not_depend_on_who_else_is_drawn_or_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    a, b = (_plain((rng.random(30) < 0.5).astype(float)) for _ in range(2))
    both = stats.distribution([a, b], 200, 9)
    np.testing.assert_allclose(stats.distribution([b], 200, 9)[0], both[1], rtol=1e-6)
    monkeypatch.setattr(bootstrap, "CELLS", 30 * 7)  # 7 draws at a time, the last chunk is not a whole one
    np.testing.assert_allclose(stats.distribution([a, b], 200, 9), both, rtol=1e-6)


def test_draws_without_a_valid_sample_are_left_out_of_the_limits() -> None:
    nan = float("nan")
    found = stats.interval(5.0, np.array([nan, *range(101)]))
    assert (found.value, found.low, found.high) == (5.0, pytest.approx(2.5), pytest.approx(97.5))
    assert np.isnan(stats.interval(5.0, np.array([nan, nan])).low)


def test_benchmarks_are_not_drawn_alike() -> None:
    assert len({stats.seed_of(name) for name in ("gqa", "mme", "seed", "ai2d")}) == 4


def test_runs_with_other_clusters_are_not_drawn_together() -> None:
    with pytest.raises(ValueError, match="different clusters"):
        stats.distribution([_plain([1, 0]), _plain([1, 0, 1])], 10)


# === above chance ===


def test_above_chance_is_the_t_test_of_cluster_means() -> None:
    rng = np.random.default_rng(7)
    score = (rng.random((25, 4)) < 0.35).astype(float)
    expected = scipy_stats.ttest_1samp(100 * score.mean(1), 25, alternative="greater").pvalue
    assert stats.above_chance(_plain(score.ravel(), np.repeat(np.arange(25), 4)), 25) == pytest.approx(expected)


@pytest.mark.slow
def test_chance_level_is_not_called_above_chance_too_often() -> None:
    """Guessing that always gives one answer per image: naive tests reject far too often, not this one."""
    rng, found, rounds = np.random.default_rng(8), 0, 1000
    cluster = np.repeat(np.arange(40), 5)
    for _ in range(rounds):
        score = np.repeat((rng.random(40) < 0.25).astype(float), 5)
        found += stats.above_chance(_plain(score, cluster), 25) < 0.05
    assert found / rounds < 0.07


def test_all_right_is_above_chance_all_wrong_is_not() -> None:
    assert stats.above_chance(_plain([1.0] * 10), 50) == pytest.approx(2**-10)
    assert stats.above_chance(_plain([0.0] * 10), 0) == 1
    assert np.isnan(stats.above_chance(_plain([1.0]), 50))


def test_above_the_blind_row_is_the_paired_t_test_of_clusters() -> None:
    rng = np.random.default_rng(17)
    a, b = ((rng.random((25, 4)) < share).astype(float) for share in (0.6, 0.45))
    cluster = np.repeat(np.arange(25), 4)
    expected = scipy_stats.ttest_rel(a.mean(1), b.mean(1), alternative="greater").pvalue
    assert 0.001 < expected < 0.2, "a case that can tell right from wrong"
    pair = (_plain(a.ravel(), cluster), _plain(b.ravel(), cluster))
    assert stats.above_other(*pair) == pytest.approx(expected)
    assert stats.above_other(*pair[::-1]) == pytest.approx(1 - expected)


def test_above_the_blind_row_where_nothing_varies() -> None:
    right, wrong = _plain([1.0] * 10), _plain([0.0] * 10)
    assert stats.above_other(right, wrong) == pytest.approx(2**-10)
    assert stats.above_other(wrong, right) == stats.above_other(right, right) == 1
    assert np.isnan(stats.above_other(_plain([1.0]), _plain([0.0])))


# === two runs ===


def _two(seed: int, gain: float, n: int = 80) -> tuple[Units, Units]:
    rng = np.random.default_rng(seed)
    skill = rng.random(n)[:, None]
    cluster = np.repeat(np.arange(n), 3)
    a = (rng.random((n, 3)) < np.clip(skill + gain, 0, 1)).astype(float).ravel()
    b = (rng.random((n, 3)) < skill).astype(float).ravel()
    return _plain(a, cluster), _plain(b, cluster)


def test_permutation_test_is_scipys() -> None:
    a, b = _two(10, 0.06)
    ours = stats.paired(a, b, draws=2000)
    theirs = scipy_stats.permutation_test(
        (a.numerator[:, 0], b.numerator[:, 0]),
        lambda x, y, axis: (x - y).sum(axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    assert ours.p == pytest.approx(theirs.pvalue, abs=0.01)
    assert 0.001 < ours.p < 0.2, "a case that can tell right from wrong"
    assert ours.difference.low < ours.difference.value < ours.difference.high


def test_flips_are_exact_where_all_can_be_counted() -> None:
    effect = np.array([1.0, 2.0, 4.0, 0.0])
    null = stats.flipped(effect, 40_000)
    assert set(np.round(null).tolist()) == {-7, -5, -3, -1, 1, 3, 5, 7}
    assert stats.two_sided(7.0, null) == pytest.approx(2 / 8, abs=0.01)


def test_pairing_sees_what_independent_runs_would_hide() -> None:
    rng = np.random.default_rng(11)
    b = (rng.random(200) < 0.5).astype(float)
    a = b.copy()
    a[np.flatnonzero(b == 0)[:12]] = 1
    found = stats.paired(_plain(a), _plain(b), draws=4000)
    assert found.difference.value == pytest.approx(6)
    assert found.p < 0.001 and found.difference.low > 2
    assert scipy_stats.ttest_ind(a, b).pvalue > 0.2


def test_the_same_run_twice_does_not_differ() -> None:
    a, _ = _two(12, 0)
    found = stats.paired(a, a, draws=100, flips=1000)
    assert (found.p, found.difference.value) == (1, 0)
    # as with 0 of n: that no image differed does not mean that none would
    reach = 100 * (1 - 0.025 ** (1 / len(a.clusters)))
    assert (found.difference.low, found.difference.high) == (pytest.approx(-reach), pytest.approx(reach))


@pytest.mark.slow
def test_permutation_p_values_are_even_without_a_difference() -> None:
    p = [stats.paired(*_two(seed, 0.0, 30), draws=10, flips=999).p for seed in range(400)]
    assert np.mean(np.array(p) < 0.05) < 0.09
    assert 0.4 < np.mean(p) < 0.65


def test_a_category_is_the_mean_of_independent_differences() -> None:
    parts = [stats.paired(*_two(seed, 0.1), seed=seed, draws=5000) for seed in (13, 14)]
    whole = stats.combined(parts, [0.5, 0.5])
    assert whole.difference.value == pytest.approx(np.mean([part.difference.value for part in parts]))
    assert whole.draws.var() == pytest.approx(sum(part.draws.var() for part in parts) / 4, rel=0.1)


def test_a_category_of_few_images_is_widened_by_the_weighted_parts() -> None:
    few, many = _two(23, 0.3, 4), _two(24, 0.3, 60)
    parts = [stats.paired(*pair, seed=seed, draws=4000) for seed, pair in enumerate((few, many))]
    whole = stats.combined(parts, [0.9, 0.1])
    gaps = [a.minus(b) for a, b in (few, many)]
    variance = [(share * gap.error) ** 2 for share, gap in zip((0.9, 0.1), gaps, strict=True)]
    freedom = sum(variance) ** 2 / (variance[0] ** 2 / 3 + variance[1] ** 2 / 59)
    ratio = scipy_stats.t.ppf(0.975, freedom) / scipy_stats.norm.ppf(0.975)
    low = whole.difference.value - (whole.difference.value - np.percentile(whole.draws, 2.5)) * ratio
    assert ratio > 1.4 and whole.difference.low == pytest.approx(max(low, -100))


def test_a_pair_needs_the_same_valid_samples() -> None:
    with pytest.raises(ValueError, match="same valid samples"):
        stats.paired(_plain([1, 0, np.nan]), _plain([1, 0, 1]))


def test_mcnemar_is_statsmodels() -> None:
    contingency = pytest.importorskip("statsmodels.stats.contingency_tables")
    rng = np.random.default_rng(15)
    a, b = (rng.random(60) < 0.6).astype(float), (rng.random(60) < 0.4).astype(float)
    table = [
        [((a == 1) & (b == 1)).sum(), ((a == 1) & (b == 0)).sum()],
        [((a == 0) & (b == 1)).sum(), ((a == 0) & (b == 0)).sum()],
    ]
    only_a, only_b, p = stats.mcnemar(a, b)
    assert (only_a, only_b) == (table[0][1], table[1][0])
    assert p == pytest.approx(contingency.mcnemar(table, exact=True).pvalue)


def test_mcnemar_refuses_what_is_not_binary_and_knows_no_difference() -> None:
    with pytest.raises(ValueError, match="0 and 1"):
        stats.mcnemar(np.array([0.5]), np.array([1.0]))
    assert stats.mcnemar(np.array([1.0, np.nan]), np.array([1.0, 0.0])) == (0, 0, 1.0)
    assert stats.mcnemar(np.array([1.0, 1, 0, 0]), np.array([0.0, 0, 1, 1])) == (2, 2, 1.0)


@pytest.mark.slow
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_holm_is_statsmodels(p: list[float]) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    assert stats.holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1].tolist())


def test_holm_leaves_unknown_values_out_of_the_count() -> None:
    assert stats.holm([0.01, float("nan"), 0.04])[::2] == pytest.approx([0.02, 0.04])
