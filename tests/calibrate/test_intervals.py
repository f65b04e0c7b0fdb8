# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusetune.calibrate.conformal import conformal_quantile
from fusetune.calibrate.intervals import ConformalIntervals
from fusetune.errors import InvalidValue, PredictionError
from fusetune.fitted import load_fitted, save_fitted
from fusetune.predictions.kinds import Values
from fusetune.predictions.targets import Numbers


def numbers(said_ND, true_ND, levels=()):
    ids = np.array([f"row{n}" for n in range(len(said_ND))])
    names = tuple(f"q{level:g}" for level in levels) or tuple(
        f"y{d}" for d in range(said_ND.shape[1])
    )
    true_names = tuple(f"y{d}" for d in range(true_ND.shape[1]))
    return Values(ids, names, said_ND, levels), Numbers(ids, true_names, true_ND)


@given(
    scores=st.lists(st.integers(0, 5), min_size=1, max_size=40),
    tenths=st.integers(1, 19).map(lambda n: n / 20),
)
def test_the_quantile_is_the_score_of_the_rank_that_the_definition_names(scores, tenths):
    n, twentieths = len(scores), round(20 * tenths)
    rank = -(-(n + 1) * twentieths // 20)  # ceil, in whole numbers
    if rank > n:
        with pytest.raises(PredictionError, match="at least"):
            conformal_quantile(np.array(scores, dtype=float), tenths)
    else:
        found = conformal_quantile(np.array(scores, dtype=float), tenths)
        assert found == sorted(scores)[rank - 1]


@pytest.mark.parametrize(("coverage", "fewest"), [(0.5, 1), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_the_fewest_rows_that_can_promise_a_coverage(coverage, fewest):
    said, so = numbers(np.zeros((fewest, 1)), np.arange(float(fewest))[:, None])
    fitted = ConformalIntervals(coverage=coverage).fit(said, so)
    assert fitted.margins_D.tolist() == [fewest - 1]
    fewer = np.arange(fewest - 1)
    message = f"at least {fewest} rows" if fewest > 1 else "no holdout row is given"
    with pytest.raises(PredictionError, match=message):
        ConformalIntervals(coverage=coverage).fit(said.take(fewer), so.take(fewer))


def coverage_by_simulation(levels, repeats=1500):
    """Mean coverage of 100 new rows by intervals fitted on 99, noise growing with x."""
    random = np.random.default_rng(0)
    covered = []
    for _ in range(repeats):
        x_N = random.random(199)
        true_N = x_N + (0.1 + x_N) * random.standard_t(3, size=199)
        said_ND = x_N[:, None] if not levels else x_N[:, None] + [-1, 1] * (0.1 + x_N[:, None])
        said, so = numbers(said_ND, true_N[:, None], levels)
        fit, new = np.arange(99), np.arange(99, 199)
        intervals = ConformalIntervals().fit(said.take(fit), so.take(fit))(said.take(new))
        covered.append(intervals.covers(so.take(new)).mean())
    return np.mean(covered)


@pytest.mark.parametrize("levels", [(), (0.1, 0.9)], ids=["residuals", "quantiles"])
def test_new_rows_are_covered_as_often_as_promised_and_no_more(levels):
    # ceil(100 * 0.9) of 100 places: exactly 0.9 on average; standard error 0.001.
    assert coverage_by_simulation(levels) == pytest.approx(0.9, abs=0.004)


def test_residuals_by_hand_with_a_width_for_each_number():
    true_ND = np.stack([np.arange(9.0), 10 * np.arange(9.0)], axis=1)
    said, so = numbers(np.zeros((9, 2)), true_ND)
    turned = Values(said.ids, ("y1", "y0"), said.values_ND[:, ::-1] + np.array([100, 0]))
    fitted = ConformalIntervals(coverage=0.5).fit(said, so)
    assert fitted.margins_D.tolist() == [4, 40]
    intervals = fitted(turned)
    assert intervals.names == ("y0", "y1")
    assert intervals.low_ND[0].tolist() == [-4, 60] and intervals.high_ND[0].tolist() == [4, 140]
    assert intervals.covers(so).sum(axis=0).tolist() == [5, 3]


def test_quantiles_by_hand_may_narrow_and_meet_in_the_middle():
    true_ND = np.linspace(-1, 1, 9)[:, None]
    said, so = numbers(np.tile([-10.0, 0.0, 10.0], (9, 1)), true_ND, (0.1, 0.5, 0.9))
    fitted = ConformalIntervals(coverage=0.5).fit(said, so)
    assert fitted.margins_D == pytest.approx([-9.5])
    wide = fitted(said)
    assert wide.low_ND[0] == pytest.approx([-0.5]) and wide.high_ND[0] == pytest.approx([0.5])
    narrow = fitted(said.with_array(said.names, said.values_ND / 10 + 3))
    assert narrow.low_ND[0] == pytest.approx([3]) and narrow.high_ND[0] == pytest.approx([3])


def test_quantiles_follow_the_noise_where_residuals_cannot():
    random = np.random.default_rng(1)
    scale_N = np.repeat([0.1, 10.0], 500)
    true_ND = (scale_N * random.normal(size=1000))[:, None]
    quantiles, so = numbers(scale_N[:, None] * [-1.0, 1.0], true_ND, (0.16, 0.84))
    intervals = ConformalIntervals(coverage=0.8).fit(quantiles, so)(quantiles)
    width_N = (intervals.high_ND - intervals.low_ND)[:, 0]
    assert width_N[:500].mean() < width_N[500:].mean() / 5
    plain, _ = numbers(np.zeros((1000, 1)), true_ND)
    band = ConformalIntervals(coverage=0.8).fit(plain, so)(plain)
    assert np.ptp(band.high_ND - band.low_ND) == 0


def test_single_precision_one_row_saved_and_no_rows(tmp_path: Path):
    said, so = numbers(np.zeros((1, 1), dtype=np.float32), np.ones((1, 1)))
    fitted = ConformalIntervals(coverage=0.5).fit(said, so)
    save_fitted(fitted, tmp_path)
    loaded = load_fitted(tmp_path)
    assert type(loaded) is type(fitted)
    assert loaded(said).high_ND.tolist() == fitted(said).high_ND.tolist() == [[1.0]]
    assert fitted(said.take(np.arange(0))).low_ND.shape == (0, 1)


def test_what_does_not_fit_is_refused():
    said, so = numbers(np.zeros((9, 2)), np.zeros((9, 1)), (0.1, 0.9))
    fitted = ConformalIntervals(coverage=0.5).fit(said, so)
    with pytest.raises(PredictionError, match=r"no quantile levels; expected .* with 2 levels"):
        fitted(Values(said.ids, said.names, said.values_ND))
    one, _ = numbers(np.zeros((9, 1)), np.zeros((9, 1)), (0.1,))
    with pytest.raises(PredictionError, match=r"the only quantile is that of level 0\.1"):
        ConformalIntervals().fit(one, so)
    for wrong in (0, 1, float("nan")):
        with pytest.raises(InvalidValue, match="coverage is"):
            ConformalIntervals(coverage=wrong)
