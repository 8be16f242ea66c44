"""Scaling, seeds, power and subsets, against closed forms, other libraries and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.power import TTestIndPower

from mllm_eval import stats
from mllm_eval.stats import Estimator, Interval, Seeds, Units

SIZES = [1.1348, 2.0842, 2.9483, 4.9383, 6.4502]


def units(score: np.ndarray, images: int) -> Units:
    cluster = [f"image {i % images:05d}" for i in range(len(score))]
    return stats.summed(Estimator(), score, cluster, [str(i) for i in range(len(score))], [None] * len(score))


# --- scaling -----------------------------------------------------------------


def test_the_line_is_that_of_least_squares() -> None:
    y = [49.01, 50.77, 51.71, 52.83, 53.87]
    fit = stats.log_linear(SIZES, y)
    other = OLS(y, np.stack([np.ones(5), np.log2(SIZES)], axis=1)).fit()
    assert [fit.intercept.value, fit.slope.value] == pytest.approx(list(other.params))
    assert fit.r2 == pytest.approx(other.rsquared)
    assert list(fit.at(SIZES)) == pytest.approx(list(other.fittedvalues))


def test_a_doubling_adds_the_slope() -> None:
    fit = stats.log_linear([1, 2, 4, 8], [10, 13, 16, 19])
    assert fit.slope.value == pytest.approx(3) and fit.intercept.value == pytest.approx(10)
    assert fit.r2 == pytest.approx(1)
    assert (fit.slope.low, fit.slope.high) == pytest.approx((3, 3))
    # Values that differ little, and not at all.
    assert stats.log_linear([1, 2, 4], [5.0, 5.1, 5.2]).r2 == pytest.approx(1)
    assert math.isnan(stats.log_linear([1, 2, 4], [5.0, 5.0, 5.0]).r2)


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 5])
def test_bands_and_slopes_cover_the_truth_with_few_points(n: int) -> None:
    rng, x = np.random.default_rng(n), np.geomspace(1, 7, n)
    hits = np.zeros(3)
    for run in range(400):
        fit = stats.log_linear(x, 50 + 1.9 * np.log2(x) + rng.normal(0, 0.5, n), draws=500, seed=run)
        low, high = fit.band([x[0], x[-1]])
        truth = 50 + 1.9 * np.log2([x[0], x[-1]])
        hits += [fit.slope.low <= 1.9 <= fit.slope.high, *((low <= truth) & (truth <= high))]
    assert np.all(hits / 400 > 0.91) and np.all(hits / 400 < 0.985)


def test_two_points_have_a_line_and_no_band() -> None:
    fit = stats.log_linear([1, 2], [3, 4])
    assert fit.slope.value == pytest.approx(1) and math.isnan(fit.slope.low) and np.isnan(fit.band([1])).all()


@pytest.mark.parametrize(("x", "y"), [([1, 1], [2, 3]), ([0, 1], [2, 3]), ([1, 2], [2, math.nan]), ([1, 2, 3], [1, 2])])
def test_what_has_no_line_is_refused(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="sizes"):
        stats.log_linear(x, y)


def test_crossing_is_where_the_lines_meet() -> None:
    x = np.array([1.0, 2, 4, 8])
    wobble = np.array([0.1, -0.1, -0.1, 0.1])
    met = stats.crossing(
        stats.log_linear(x, 10 + 2 * np.log2(x) + wobble), stats.log_linear(x, 14 + 0 * x - wobble), (0.1, 100)
    )
    assert met.x == pytest.approx(4) and met.low < 4 < met.high and met.share > 0.99


def test_parallel_lines_do_not_meet() -> None:
    x, wobble = [1, 2, 4, 8], np.array([0.3, -0.5, 0.4, -0.2])
    apart = stats.crossing(stats.log_linear(x, wobble), stats.log_linear(x, 5 + wobble[::-1]), (0.1, 100))
    assert math.isnan(apart.low) and apart.share < 0.95


# --- seeds -------------------------------------------------------------------


def test_seeds_of_one_value_vary_only_by_questions() -> None:
    draws = np.random.default_rng(0).normal(50, 2, 5000)
    found = stats.over_seeds([50.0, 50.0, 50.0], [draws] * 3)
    assert found.between == 0 and found.within == pytest.approx(2, rel=0.05)
    assert found.error == pytest.approx(2, rel=0.05) and math.isinf(found.freedom)
    assert found.mean.high - found.mean.low == pytest.approx(2 * 1.96 * 2, rel=0.05)


def test_seeds_without_questions_are_the_t_interval() -> None:
    values = [48.0, 50.0, 53.0]
    found = stats.over_seeds(values, [np.full(10, value) for value in values])
    low, high = scipy_stats.t.interval(0.95, 2, np.mean(values), scipy_stats.sem(values))
    assert (found.mean.low, found.mean.high) == pytest.approx((low, high))
    assert found.within == 0 and found.freedom == pytest.approx(2)


def test_limits_over_seeds_stay_on_the_scale_and_gaps_on_that_of_a_difference() -> None:
    scale = stats.Scale(0.0, 100.0)
    free, held = (stats.over_seeds([55.0, 77.5], [np.zeros(3)] * 2, *more) for more in ((), (math.inf, scale)))
    assert free.mean.low < 0 and free.mean.high > 100
    assert (held.mean.value, held.mean.low, held.mean.high) == (66.25, 0.0, 100.0)
    other = stats.over_seeds([10.0, 90.0], [np.zeros(3)] * 2, math.inf, scale)
    gap = stats.gap_over_seeds(held, other, np.zeros(3))
    assert (gap.difference.low, gap.difference.high, gap.noise) == (-100.0, 100.0, 100.0)
    assert gap.p == stats.gap_over_seeds(free, stats.over_seeds([10.0, 90.0], [np.zeros(3)] * 2), np.zeros(3)).p
    unknown = stats.over_seeds([55.0, 77.5], [np.zeros(3)] * 2, 0, scale)
    assert math.isnan(unknown.mean.low) and math.isnan(
        stats.gap_over_seeds(unknown, held, np.zeros(3), 0).difference.high
    )


def test_the_interval_over_seeds_covers_what_a_single_seed_does_not() -> None:
    rng, hits, alone = np.random.default_rng(1), 0, 0
    for _ in range(500):
        base = rng.normal(0, 1)  # the questions that were drawn
        values = 50 + base + rng.normal(0, 1.5, 3)
        shared = rng.normal(0, 1, 200)  # a draw is the same questions for all seeds
        found = stats.over_seeds(list(values), [value + shared for value in values])
        hits += found.mean.low <= 50 <= found.mean.high
        alone += abs(values[0] - 50) <= 1.96
    assert 0.93 <= hits / 500 <= 0.995 and alone / 500 < 0.80


def test_a_gap_over_seeds_is_welchs_where_questions_do_not_vary() -> None:
    a, b = [50.0, 52.0, 51.0, 53.0], [48.0, 49.5, 47.0]
    sides = [stats.over_seeds(v, [np.full(5, x) for x in v]) for v in (a, b)]
    found = stats.gap_over_seeds(*sides, np.zeros(5))
    other = scipy_stats.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(other.pvalue)
    limits = other.confidence_interval()
    assert (found.difference.low, found.difference.high) == pytest.approx((limits.low, limits.high))


@pytest.mark.slow
def test_the_noise_of_seeds_is_what_two_seeds_of_one_encoder_differ_by() -> None:
    rng, beyond = np.random.default_rng(2), 0
    for _ in range(2000):
        one, other = rng.normal(0, 1, 4), rng.normal(0, 1, 4)
        sides = [stats.over_seeds(list(v), [np.zeros(3)] * 4) for v in (one, other)]
        noise = stats.gap_over_seeds(*sides, np.zeros(3)).noise
        beyond += abs(rng.normal(0, 1) - rng.normal(0, 1)) > noise
    assert 0.035 < beyond / 2000 < 0.065


def test_one_seed_has_no_spread() -> None:
    with pytest.raises(ValueError, match="two seeds"):
        stats.over_seeds([1.0], [np.zeros(3)])


# --- power -------------------------------------------------------------------


def test_seeds_needed_are_statsmodels() -> None:
    for difference, between in [(1.0, 1.0), (2.0, 0.8), (0.5, 0.6)]:
        wanted = TTestIndPower().solve_power(effect_size=difference / between, power=0.8, alpha=0.05)
        assert stats.seeds_needed(difference, between) == math.ceil(wanted)
    assert stats.seed_power(2.0, 1.0, 4) == pytest.approx(TTestIndPower().power(2.0, 4, 0.05))


def test_power_has_its_ends() -> None:
    assert stats.seeds_needed(1.0, 0.0) == 1 and stats.seeds_needed(0.0, 1.0) is None
    assert stats.seeds_needed(1e-4, 1.0) is None and stats.seeds_needed(100.0, 1.0) == 2
    assert stats.seed_power(1.0, 1.0, 1) == 0.0
    # without a difference the test finds one as often as it errs, half of it on either side
    assert stats.seed_power(0.0, 1.0, 5, alpha=0.1) == pytest.approx(0.1)
    assert math.isinf(stats.questions_needed(0.0, 1.0, 100))


def test_the_error_of_a_difference_is_that_of_its_draws() -> None:
    rng = np.random.default_rng(3)
    a = units((rng.random(600) < 0.6).astype(float), 300)
    b = units((rng.random(600) < 0.5).astype(float), 300)
    draws = stats.distribution([a, b], 8000)
    assert stats.paired_error(a, b) == pytest.approx(float((draws[0] - draws[1]).std()), rel=0.05)


@pytest.mark.slow
def test_the_promised_number_of_questions_finds_the_difference_as_often_as_promised() -> None:
    rng, gap = np.random.default_rng(4), 6.0

    def two(n: int) -> tuple[Units, Units]:
        shared = rng.random(n)  # the same questions are hard for both
        right = [(shared < 0.5 + part).astype(float) for part in (gap / 100, 0.0)]
        noise = [rng.random(n) < 0.3 for _ in right]
        mixed = [
            np.where(flip, rng.random(n) < 0.5 + part, one)
            for one, flip, part in zip(right, noise, (gap / 100, 0), strict=True)
        ]
        return units(mixed[0].astype(float), n), units(mixed[1].astype(float), n)

    pilot = two(4000)
    needed = math.ceil(stats.questions_needed(gap, stats.paired_error(*pilot), 4000))
    found = 0
    for _ in range(400):
        a, b = two(needed)
        found += abs(a.value - b.value) > 1.96 * stats.paired_error(a, b)
    assert 0.73 < found / 400 < 0.87


def test_detectable_and_questions_needed_are_two_sides_of_one() -> None:
    edge = stats.detectable(1.5)
    assert stats.questions_needed(edge, 1.5, 500) == pytest.approx(500)
    assert stats.questions_needed(2 * edge, 1.5, 500) == pytest.approx(125)
    assert stats.clusters_needed(1.0, 400, 1.96) == 400


# --- subsets -----------------------------------------------------------------


def test_a_subset_keeps_shares_clusters_and_is_part_of_a_larger_one() -> None:
    cluster = [f"image {i // 3}" for i in range(3000)]
    stratum = ["rare" if i < 300 else "common" for i in range(3000)]
    small, large = (stats.stratified(cluster, stratum, size) for size in (300, 1000))
    assert abs(int(small.sum()) - 300) <= 4 and abs(int(large.sum()) - 1000) <= 4
    assert abs(int(small[:300].sum()) - 30) <= 3
    assert not (small & ~large).any()
    for name in {cluster[i] for i in np.flatnonzero(small)}:
        assert all(small[i] for i in range(3000) if cluster[i] == name)


def test_a_subset_does_not_depend_on_the_order_and_gives_each_stratum_a_voice() -> None:
    names = [f"{i:03d}" for i in range(100)]
    strata: list[str | None] = ["alone" if i == 7 else None for i in range(100)]
    chosen = stats.stratified(names, strata, 10)
    back = stats.stratified(names[::-1], strata[::-1], 10)
    assert chosen[7] and (chosen == back[::-1]).all()
    assert stats.stratified(names, strata, 500).all()


def test_the_error_of_a_subset_is_implied_by_the_whole() -> None:
    rng = np.random.default_rng(5)
    score = (rng.random(4000) < 0.6).astype(float)
    whole, cluster = units(score, 4000), [f"image {i:05d}" for i in range(4000)]
    part = stats.stratified(cluster, [None] * 4000, 1000)
    own = units(np.where(part, score, np.nan), 4000)
    assert stats.implied_error(whole, 0.25) == pytest.approx(2 * whole.error)
    assert own.error == pytest.approx(stats.implied_error(whole, 0.25), rel=0.06)


def test_rank_agreement() -> None:
    good = stats.agreement([1, 2, 3, 4], [10, 20, 30, 45])
    assert (good.spearman, good.kendall, good.runs) == (pytest.approx(1), pytest.approx(1), 4)
    swapped = stats.agreement([1, 2, 3, 4], [1, 3, 2, 4])
    assert swapped.spearman == pytest.approx(0.8) and swapped.kendall == pytest.approx(2 / 3) and swapped.apart == 1
    assert math.isnan(stats.agreement([1, 2], [1, 2]).spearman)
    assert math.isnan(stats.agreement([1, 1, 1], [1, 2, 3]).spearman)
    for whole, part in (([1, math.nan, 2, 4], [1, 2, 3, 4]), ([1, 2, 3, 4], [1, math.nan, 4, 4.5])):
        found = stats.agreement(whole, part)
        assert (found.runs, found.apart, found.spearman) == (3, 1, pytest.approx(1))


def test_benchmarks_give_other_parts_of_the_same_images() -> None:
    """Else an easy part of shared pictures would be asked by all benchmarks at once."""
    names = [f"{i:03d}" for i in range(200)]
    parts = [stats.part_of_table(names, [None] * 200, 800, name) for name in ("gqa", "mme")]
    assert [int(part.sum()) for part in parts] == [50, 50] and (parts[0] != parts[1]).any()
    assert stats.part_of_table(names, [None] * 200, 100, "gqa", benchmarks=2).sum() == 50


def test_seeds_hold_what_they_were_made_of() -> None:
    found = stats.over_seeds([1.0, 2.0], [np.zeros(4), np.zeros(4)])
    assert isinstance(found, Seeds) and found.values == (1.0, 2.0) and isinstance(found.mean, Interval)


@pytest.mark.slow
@pytest.mark.parametrize("images", [3, 5, 10, 30, 300])
def test_intervals_cover_however_few_images_there_are(images: int) -> None:
    """Without the widening 3 images give 77 %, 5 give 86 %."""
    rng, covered, rounds = np.random.default_rng(11), 0, 400
    cluster = [str(i) for i in np.repeat(np.arange(images), 15)]
    for number in range(rounds):
        level = np.clip(rng.normal(0.5, 0.2, size=images), 0.0, 1.0)
        score = (rng.random((images, 15)) < level[:, None]).astype(float).ravel()
        units = stats.summed(
            stats.Estimator(), score, cluster, [str(i) for i in range(len(score))], [None] * len(score)
        )
        found = stats.value_interval(units, stats.distribution([units], draws=400, seed=number)[0])
        covered += found.low <= 50.0 <= found.high
    assert 0.9 <= covered / rounds <= 0.985


def test_one_image_bears_no_interval_and_no_test() -> None:
    units = [stats.summed(stats.Estimator(), score, list("aaaa"), list("1234"), [None] * 4)
             for score in (np.array([1.0, 0, 1, 0]), np.array([0.0, 0, 1, 0]))]  # fmt: skip
    found = stats.value_interval(units[0], stats.distribution(units[:1], 50)[0])
    assert (found.value, math.isnan(found.low), math.isnan(found.high)) == (50.0, True, True)
    pair = stats.paired(*units, draws=50, flips=99)
    whole = stats.combined([pair, pair], [0.5, 0.5])
    for one in (pair, whole):
        assert one.difference.value == 25 and math.isnan(one.difference.low) and math.isnan(one.p)


def test_as_much_on_every_image_does_not_claim_certainty() -> None:
    units = stats.summed(stats.Estimator(), np.tile([1.0, 0.0], 3), list("aabbcc"), list("123456"), [None] * 6)
    found = stats.value_interval(units, stats.distribution([units], 50)[0])
    assert found.low < 10 and found.high > 90


@pytest.mark.parametrize("images", [2, 7, 40])
def test_equal_shares_do_not_claim_certainty_either(images: int) -> None:
    """One of three right on every image: sums of 32 bits must not make a hair's breadth of an interval of it."""
    names = [str(i) for i in np.repeat(np.arange(images), 3)]
    units = stats.summed(
        stats.Estimator(),
        np.tile([1.0, 0.0, 0.0], images),
        names,
        list(map(str, range(3 * images))),
        [None] * len(names),
    )
    reach = 100 * (1 - 0.025 ** (1 / images))
    found = stats.value_interval(units, stats.distribution([units], 200)[0])
    assert found.low == pytest.approx(max(0, 100 / 3 - reach)) and found.high == pytest.approx(
        min(100, 100 / 3 + reach)
    )


def _units(score: list[float], cluster: str, stratum: str = "", how: str = "pooled") -> stats.Units:
    estimator = stats.Estimator(strata=how)  # type: ignore[arg-type]
    layer = list(stratum) if stratum else [None] * len(score)
    return stats.summed(estimator, score, list(cluster), [str(i) for i in range(len(score))], layer)


def test_a_constant_difference_and_a_mean_of_constant_values_do_not_claim_certainty() -> None:
    right, wrong = _units([1.0] * 6, "abcdef"), _units([0.0] * 6, "abcdef")
    slack = 1 - 0.025 ** (1 / 6)
    gap = stats.paired(right, wrong, draws=50, flips=99).difference
    assert (gap.value, gap.low, gap.high) == (100, pytest.approx(100 - 200 * slack), 100)
    nothing = stats.distribution([wrong], 50)[0]
    mean = stats.widened(stats.interval(0.0, nothing), [(wrong, 0.25)] * 4)
    # four halves of the limit of one, squared and added
    assert (mean.low, mean.high) == (0, pytest.approx(100 * slack / 2))


def test_what_does_not_vary_widens_the_mean_that_it_is_part_of() -> None:
    wrong, mixed = _units([0.0] * 6, "abcdef"), _units([1.0, 0, 1, 0, 1, 0], "abcdef")
    draws = stats.distribution([mixed], 500)[0] / 2
    alone = stats.widened(stats.interval(25.0, draws), [(mixed, 0.5)])
    both = stats.widened(stats.interval(25.0, draws), [(mixed, 0.5), (wrong, 0.5)])
    reach = (np.percentile(draws, 97.5) - 25) * stats.t_ratio([(mixed, 0.5)])
    up = 50 * (1 - 0.025 ** (1 / 6))
    assert both.low == pytest.approx(alone.low) and both.high == pytest.approx(25 + math.hypot(reach, up))


def test_a_stratum_of_one_image_leaves_the_value_without_an_interval() -> None:
    """It would add no variance to the mean of strata, however unsure it is."""
    units = _units([1.0, 0, 1, 0, 1, 0, 1], "abcdefg", "xxxxxxy", "mean")
    assert units.value == pytest.approx(75) and units.error > 0 and units.freedom == 0
    found = stats.value_interval(units, stats.distribution([units], 50)[0])
    assert math.isnan(found.low) and math.isnan(stats.above_chance(units, 10.0))
    assert _units([1.0, 0, 1, 0, 1, 0, 1], "abcdefg", "xxxxxyy", "mean").freedom == 5


def test_an_image_that_alone_shares_two_strata_is_drawn_with_those_of_one() -> None:
    """A layer of its own would keep it in every draw."""
    units = _units([1.0, 0, 1, 0, 1, 1, 0, 0], "aabbccdd", "xxxxyyyx", "mean")
    assert units.clusters == ("a", "b", "c", "d") and units.freedom == 2
    layer = dict(zip(units.clusters, units.layer.tolist(), strict=True))
    assert layer["a"] == layer["b"] == layer["d"] != layer["c"] or layer["c"] == layer["d"] != layer["a"]
    draws = stats.distribution([units], 2000)[0]
    assert len(set(np.round(draws[np.isfinite(draws)], 6))) > 1


def test_images_without_an_answer_are_no_evidence() -> None:
    nan = float("nan")
    units = _units([1.0, 0, nan, nan, nan, nan], "aabbcc")
    assert units.value == 50 and units.freedom == 0
    assert math.isnan(stats.value_interval(units, stats.distribution([units], 50)[0]).low)
    assert _units([1.0, 0, 0, nan, nan, nan], "aabbcc").freedom == 1
    fewest = _units([0.0, 0, 0, nan, nan, nan], "aabbcc")
    limit = stats.value_interval(fewest, stats.distribution([fewest], 50)[0]).high
    assert limit == pytest.approx(100 * (1 - 0.025**0.5))


def test_an_unknown_error_promises_no_power() -> None:
    one, other = _units([1.0, 0, 1, 1], "aaaa"), _units([1.0, 0, 0, 0], "aaaa")
    same = _units([1.0, 0, 1, 0], "abcd")
    for pair in ((one, other), (same, same)):
        error = stats.paired_error(*pair)
        assert math.isnan(error) and math.isnan(stats.detectable(error))
        assert math.isnan(stats.questions_needed(2.0, error, 4))


def test_seeds_on_one_image_have_a_spread_and_no_interval() -> None:
    draws = [np.full(10, value) for value in (40.0, 44.0)]
    found = stats.over_seeds([40.0, 44.0], draws, 0)
    assert found.between == pytest.approx(math.sqrt(8)) and found.mean.value == 42
    assert all(map(math.isnan, (found.mean.low, found.mean.high, found.within)))
    gap = stats.gap_over_seeds(found, found, draws[0] - draws[0], 0)
    assert math.isnan(gap.difference.low) and math.isnan(gap.p) and gap.noise > 0


def test_few_images_widen_the_gap_over_seeds() -> None:
    """What the questions vary by counts with the degrees of freedom that it has."""
    rng = np.random.default_rng(0)
    draws = rng.normal(0, 3, 4000)
    sides = [stats.over_seeds([level, level], [draws, draws], 2) for level in (50.0, 60.0)]
    few, many = (stats.gap_over_seeds(*sides, draws, freedom) for freedom in (2, math.inf))
    ratio = scipy_stats.t.ppf(0.975, 2) / scipy_stats.norm.ppf(0.975)
    assert few.difference.high + 10 == pytest.approx(ratio * (many.difference.high + 10))
    assert few.p == pytest.approx(2 * scipy_stats.t.sf(10 / draws.std(ddof=1), 2))
    assert stats.satterthwaite([4.0, 1.0], [2, 8]) == pytest.approx(25 / (8 + 1 / 8))
    assert stats.satterthwaite([4.0, 1.0], [2, 0]) == 0 and math.isinf(stats.satterthwaite([0.0], [2]))


def test_widening_is_students_t_and_stays_within_the_scale() -> None:
    score = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    units = stats.summed(stats.Estimator(), score, list("abcde"), list("abcde"), [None] * 5)
    assert stats.t_ratio([(units, 1.0)]) == pytest.approx(scipy_stats.t.ppf(0.975, 4) / scipy_stats.norm.ppf(0.975))
    # two alike: twice the degrees of freedom
    assert stats.t_ratio([(units, 0.5)] * 2) == pytest.approx(scipy_stats.t.ppf(0.975, 8) / scipy_stats.norm.ppf(0.975))
    wide = stats.widened(stats.Interval(60.0, 20.0, 95.0), [(units, 1.0)])
    assert (wide.low, wide.high) == (pytest.approx(60 - 40 * stats.t_ratio([(units, 1.0)])), 100.0)
    sure = stats.summed(stats.Estimator(), np.ones(5), list("abcde"), list("abcde"), [None] * 5)
    assert stats.t_ratio([(sure, 1.0)]) == 1.0
