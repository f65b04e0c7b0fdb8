# SPDX-License-Identifier: Apache-2.0
"""Weighted averaging: objectives, shrinkage, weights per class, and every kind."""

import numpy as np
import pytest
from scipy.stats import norm

from fusetune.errors import InvalidValue, PredictionError
from fusetune.fuse.column_average import ColumnAverage
from fusetune.fuse.forms import WeightedAverage, true_probs_MN
from fusetune.fuse.methods.distributions.greedy_selection import GreedySelection
from fusetune.fuse.methods.distributions.weighted_mean import WeightedMean
from fusetune.fuse.simplex import log_loss_weights
from fusetune.fuse.weighing import GRID
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.brier import Brier
from fusetune.metrics.log_loss import LogLoss
from fusetune.metrics.macro_f1 import MacroF1
from fusetune.metrics.pinball import Pinball
from fusetune.metrics.rmse import Rmse
from fusetune.predictions.folds import stratified_folds
from fusetune.predictions.kinds import Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import LabelSets, Numbers, Targets
from pools import pool


def value_of(metric, fusion, stack, targets):
    return metric.value(metric.statistics(fusion(stack), targets))


def numbers_pool(members=4, rows=200, columns=("y",), *, seed=0, noise=1.0):
    random = np.random.default_rng(seed)
    ids = np.array([f"row{n}" for n in range(rows)])
    truth_ND = random.normal(size=(rows, len(columns)))
    shared_ND = truth_ND + 0.3 * random.normal(size=truth_ND.shape)
    parts = {
        f"member{m}": Values(
            ids,
            columns,
            shared_ND + noise * random.uniform(0.3, 2) * random.normal(size=truth_ND.shape),
        )
        for m in range(members)
    }
    return Stack.align(parts, classes=columns), Numbers(ids, columns, truth_ND)


def labels_pool(members=4, rows=150, classes=("a", "b", "c"), seed=0):
    random = np.random.default_rng(seed)
    ids = np.array([f"row{n}" for n in range(rows)])
    present_NC = random.random((rows, len(classes))) < [0.5, 0.3, 0.1]
    parts = {}
    for m in range(members):
        logits_NC = (
            3.0 * present_NC - 1.5 + random.uniform(0.5, 3) * random.normal(size=present_NC.shape)
        )
        parts[f"member{m}"] = Marginals.from_logits(ids, classes, logits_NC)
    return Stack.align(parts, classes=classes), LabelSets(ids, classes, present_NC)


def test_without_shrinkage_the_loss_beats_every_members_whatever_the_metric():
    stack, targets = pool(members=4, rows=300, noise=2.0)
    one = WeightedMean(shrink=0.0).fit(stack, targets, Accuracy())
    two = WeightedMean(shrink=0.0).fit(stack, targets, LogLoss())
    assert one.weights() == two.weights()
    metric = LogLoss()
    for part in stack.parts:
        assert value_of(metric, one, stack, targets) < metric.value(
            metric.statistics(part, targets)
        )


def test_brier_is_minimized_where_it_is_the_metric():
    stack, targets = pool(members=5, rows=200, noise=2.0)
    fusion = WeightedMean(shrink=0.0).fit(stack, targets, Brier())
    best = value_of(Brier(), fusion, stack, targets)
    assert best < value_of(
        Brier(), WeightedMean(shrink=0.0).fit(stack, targets, LogLoss()), stack, targets
    )
    random = np.random.default_rng(0)
    for weights_M in random.dirichlet(np.ones(5), size=200):
        mixed = type(fusion)(members=stack.members, weights_M=weights_M)
        assert best <= value_of(Brier(), mixed, stack, targets) + 1e-12
    same = WeightedMean(shrink=0.0, objective="squared_error").fit(stack, targets, LogLoss())
    assert same.weights() == fusion.weights()


@pytest.mark.parametrize("metric", [Accuracy(), MacroF1()], ids=lambda metric: metric.name)
def test_the_search_is_never_worse_than_convex_and_greedy_weights_on_the_holdout(metric):
    for seed in range(5):
        stack, targets = pool(members=5, rows=80, noise=3.0, seed=seed)
        searched = WeightedMean(objective="metric", shrink=0.0).fit(stack, targets, metric)
        convex = WeightedMean(shrink=0.0).fit(stack, targets, metric)
        greedy = GreedySelection().fit(stack, targets, metric)
        found = value_of(metric, searched, stack, targets)
        assert found >= value_of(metric, convex, stack, targets)
        assert found >= value_of(metric, greedy, stack, targets)


def test_a_given_share_moves_the_weights_that_far_towards_equal_ones():
    stack, targets = pool(members=4, rows=300, noise=2.0)
    none = WeightedMean(shrink=0.0).fit(stack, targets, LogLoss()).weights()
    some = WeightedMean(shrink=0.3).fit(stack, targets, LogLoss()).weights()
    for member in stack.members:
        assert some[member] == pytest.approx(0.7 * none.get(member, 0) + 0.3 / 4, abs=1e-12)
    all_M = WeightedMean(shrink=1.0).fit(stack, targets, LogLoss()).weights_M
    np.testing.assert_allclose(all_M, 0.25)


@pytest.mark.parametrize("rows", [25, 60, 400])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_share_is_the_one_that_cross_validation_finds(rows, weighted):
    stack, targets = pool(members=6, rows=rows, noise=1.5, seed=rows)
    weights_N = np.random.default_rng(1).uniform(0, 2, rows) if weighted else np.ones(rows)
    true_MN, folds_N = true_probs_MN(stack, targets), stratified_folds(targets, 5)
    losses = dict.fromkeys(GRID, 0.0)
    for fold in range(5):
        out_N = folds_N == fold
        weights_M, _ = log_loss_weights(true_MN[:, ~out_N], weights_N[~out_N])
        for share in GRID:
            mixed_M = share / 6 + (1 - share) * weights_M
            losses[share] -= weights_N[out_N] @ np.log(mixed_M @ true_MN[:, out_N])
    share = min(GRID, key=losses.get)
    fusion = WeightedMean().fit(stack, targets, LogLoss(), sample_weights_N=weights_N)
    given = WeightedMean(shrink=share).fit(stack, targets, LogLoss(), sample_weights_N=weights_N)
    assert fusion.weights() == pytest.approx(given.weights())


@pytest.mark.parametrize("objective", ["log_loss", "squared_error"])
def test_the_share_is_chosen_by_the_users_metric(objective):
    for seed in range(4):
        stack, targets = pool(members=6, rows=200, noise=1.5, seed=seed)
        folds_N, metric = stratified_folds(targets, 5), Accuracy()
        right = dict.fromkeys(GRID, 0.0)
        for fold in range(5):
            out, kept = np.flatnonzero(folds_N == fold), np.flatnonzero(folds_N != fold)
            for share in GRID:
                fusion = WeightedMean(objective=objective, shrink=share).fit(
                    stack.take(kept), targets.take(kept), metric
                )
                right[share] += len(out) * value_of(
                    metric, fusion, stack.take(out), targets.take(out)
                )
        share = max(GRID, key=lambda share: round(right[share], 6))
        found = WeightedMean(objective=objective).fit(stack, targets, metric)
        given = WeightedMean(objective=objective, shrink=share).fit(stack, targets, metric)
        assert found.weights() == pytest.approx(given.weights())


def test_few_rows_of_like_members_give_the_plain_mean_and_many_rows_do_not():
    random = np.random.default_rng(0)
    shares = []
    for _ in range(20):
        labels_N = random.integers(3, size=20)
        ids, classes = np.arange(20), ("a", "b", "c")
        logits_MNC = 2.0 * np.eye(3)[labels_N] + random.normal(size=(8, 20, 3))
        parts = {
            f"member{m}": Probabilities.from_logits(ids, classes, logits_NC)
            for m, logits_NC in enumerate(logits_MNC)
        }
        stack = Stack.align(parts, classes=classes)
        targets = Targets(stack.ids, classes, labels_N)
        weights_M = WeightedMean().fit(stack, targets, LogLoss()).weights_M
        shares.append(len(weights_M) * weights_M.min() / weights_M.sum())
    assert np.mean(np.array(shares) > 0.999) > 0.5
    many, many_targets = pool(members=8, rows=4_000, noise=2.0)
    assert WeightedMean().fit(many, many_targets, LogLoss()).weights() == pytest.approx(
        WeightedMean(shrink=0.0).fit(many, many_targets, LogLoss()).weights()
    )


def test_a_single_row_cannot_be_cross_validated_and_gives_equal_weights():
    stack, targets = pool(members=3, rows=1)
    np.testing.assert_allclose(WeightedMean().fit(stack, targets, LogLoss()).weights_M, 1 / 3)


def test_rows_without_weight_leave_no_trace():
    stack, targets = pool(members=3, rows=60)
    weights_N = np.zeros(60)
    weights_N[:4] = 1.0
    for objective in ("log_loss", "squared_error", "metric"):
        fusion = WeightedMean(objective=objective).fit(
            stack, targets, Accuracy(), sample_weights_N=weights_N
        )
        assert sum(fusion.weights().values()) == pytest.approx(1)


def test_weights_per_class_follow_the_member_that_knows_the_class():
    # member0 tells a from the rest, member1 tells b from c; neither knows the other's matter.
    ids, classes = np.arange(300), ("a", "b", "c")
    labels_N = np.arange(300) % 3
    random = np.random.default_rng(0)
    first_NC = np.where(labels_N[:, None] == 0, [0.9, 0.05, 0.05], [0.1, 0.45, 0.45])
    second_NC = np.array([[1, 1, 1], [0.3, 2.4, 0.3], [0.3, 0.3, 2.4]])[labels_N] / 3
    noise_NC = random.dirichlet([30, 30, 30], size=300)
    parts = {
        "member0": Probabilities(ids, classes, 0.9 * first_NC + 0.1 * noise_NC),
        "member1": Probabilities(ids, classes, 0.9 * second_NC + 0.1 * noise_NC),
    }
    stack = Stack.align(parts, classes=classes)
    targets = Targets(stack.ids, classes, labels_N)
    fusion = WeightedMean(per_class=True, shrink=0.0).fit(stack, targets, LogLoss())
    assert isinstance(fusion, ColumnAverage)
    assert fusion.weights_MC[0, 0] > 0.9
    assert fusion.weights_MC[1, 1:].min() > 0.5
    common = WeightedMean(shrink=0.0).fit(stack, targets, LogLoss())
    assert value_of(LogLoss(), fusion, stack, targets) < value_of(LogLoss(), common, stack, targets)
    np.testing.assert_allclose(fusion(stack).probs_NC.sum(axis=1), 1)


def test_every_class_of_per_class_weights_is_its_own_two_class_problem():
    stack, targets = pool(members=3, rows=200, noise=2.0)
    fusion = WeightedMean(per_class=True, shrink=0.0).fit(stack, targets, LogLoss())
    for column in range(4):
        is_N = targets.labels_N == column
        cells_MN = np.array(
            [np.where(is_N, p.probs_NC[:, column], 1 - p.probs_NC[:, column]) for p in stack.parts]
        )
        weights_M, _ = log_loss_weights(cells_MN, np.ones(200))
        kept = [stack.members.index(name) for name in fusion.members]
        np.testing.assert_allclose(fusion.weights_MC[:, column], weights_M[kept], atol=1e-6)


def test_column_averages_renormalize_over_the_members_that_know_a_class():
    ids = np.array(["x", "y"])
    one = Probabilities(ids, ("a", "b"), np.array([[0.5, 0.5], [1.0, 0.0]]))
    two = Probabilities(ids, ("c", "b"), np.array([[0.25, 0.75], [1.0, 0.0]]))
    stack = Stack.align({"one": one, "two": two}, classes=("a", "b", "c"))
    fusion = ColumnAverage(
        members=("one", "two"), columns=("a", "b"), weights_MC=np.array([[0.0, 3.0], [1.0, 1.0]])
    )
    # a: only `one` knows it; b: 3 to 1; c was not there when the weights were fitted.
    raw_NC = np.array([[0.5, (3 * 0.5 + 0.75) / 4, 0.25], [1, 0, 1]])
    np.testing.assert_allclose(fusion(stack).probs_NC, raw_NC / raw_NC.sum(axis=1, keepdims=True))


def test_a_row_that_column_averages_leave_empty_is_the_plain_mean():
    ids = np.array(["x"])
    parts = {
        "one": Probabilities(ids, ("a", "b"), np.array([[0.0, 1.0]])),
        "two": Probabilities(ids, ("a", "b"), np.array([[1.0, 0.0]])),
    }
    fusion = ColumnAverage(
        members=("one", "two"), columns=("a", "b"), weights_MC=np.array([[1.0, 0.0], [0.0, 1.0]])
    )
    fused = fusion(Stack.align(parts, classes=("a", "b")))
    assert fused.probs_NC.tolist() == [[0.5, 0.5]]


def test_labels_are_weighed_by_the_likelihood_of_all_cells():
    stack, targets = labels_pool()
    fusion = WeightedMean(shrink=0.0).fit(stack, targets, Accuracy())
    cells_ML = np.array(
        [
            np.where(targets.present_NC, part.probs_NC, 1 - part.probs_NC).ravel()
            for part in stack.parts
        ]
    )
    weights_M, _ = log_loss_weights(cells_ML, np.ones(cells_ML.shape[1]))
    assert fusion.weights() == pytest.approx(
        {m: w for m, w in zip(stack.members, weights_M.tolist(), strict=True) if w}
    )
    Marginals(stack.ids, stack.classes, fusion(stack).probs_NC)
    Marginals(
        stack.ids,
        stack.classes,
        WeightedMean(per_class=True).fit(stack, targets, Accuracy())(stack).probs_NC,
    )


@pytest.mark.parametrize("columns", [("y",), ("y", "z")])
def test_values_get_the_weights_of_smallest_squared_error(columns):
    stack, targets = numbers_pool(columns=columns)
    fusion = WeightedMean(shrink=0.0).fit(stack, targets, Accuracy())

    def loss(weights_M):
        pooled = sum(w * p.values_ND for w, p in zip(weights_M, stack.parts, strict=True))
        return ((pooled - targets.values_ND) ** 2).sum()

    weights = fusion.weights()
    best = loss([weights.get(member, 0) for member in stack.members])
    for weights_M in np.random.default_rng(0).dirichlet(np.ones(4), size=300):
        assert best <= loss(weights_M) + 1e-9
    assert fusion(stack).names == columns


def test_every_value_may_have_weights_of_its_own():
    stack, targets = numbers_pool(columns=("y", "z"))
    fusion = WeightedMean(shrink=0.0, per_class=True).fit(stack, targets, Accuracy())
    for index, name in enumerate(("y", "z")):
        parts = {
            member: Values(stack.ids, (name,), part.values_ND[:, [index]])
            for member, part in zip(stack.members, stack.parts, strict=True)
        }
        alone = WeightedMean(shrink=0.0).fit(
            Stack.align(parts, classes=(name,)),
            Numbers(stack.ids, (name,), targets.values_ND[:, [index]]),
            Accuracy(),
        )
        given = dict(zip(fusion.members, fusion.weights_MC[:, index].tolist(), strict=True))
        assert {m: w for m, w in given.items() if w} == pytest.approx(alone.weights())


def test_values_under_other_names_than_the_truth_are_refused():
    stack, _ = numbers_pool(columns=("y", "z"))
    other = Numbers(stack.ids, ("v", "x"), np.zeros((200, 2)))
    with pytest.raises(
        PredictionError, match=r"predict 'y', 'z'; expected the names of the true numbers"
    ):
        WeightedMean().fit(stack, other, Accuracy())


def test_values_without_truth_are_not_judged():
    stack, targets = numbers_pool(columns=("y", "z"))
    only = Numbers(stack.ids, ("z", "x"), targets.values_ND[:, [1, 0]])
    fusion = WeightedMean(shrink=0.0, per_class=True).fit(stack, only, Rmse())
    np.testing.assert_allclose(fusion.weights_MC[:, 0], 1 / 4)
    both = WeightedMean(shrink=0.0, per_class=True).fit(stack, targets, Rmse())
    kept = [fusion.members.index(name) for name in both.members]
    np.testing.assert_allclose(fusion.weights_MC[kept, 1], both.weights_MC[:, 1], atol=1e-9)


def test_quantiles_are_averaged_level_by_level_with_weights_by_the_metric():
    random = np.random.default_rng(0)
    levels, ids = (0.1, 0.5, 0.9), np.arange(120)
    truth_N1 = random.normal(size=(120, 1))
    spread = np.array([-1.28, 0.0, 1.28])
    parts = {
        f"m{m}": Values(
            ids,
            ("q10", "q50", "q90"),
            truth_N1 + s * (random.normal(size=(120, 1)) + spread),
            levels,
        )
        for m, s in enumerate((0.5, 1.0, 3.0))
    }
    stack = Stack.align(parts)
    targets = Numbers(stack.ids, ("y",), truth_N1)
    fusion = WeightedMean(shrink=0.0).fit(stack, targets, Pinball())
    fused = fusion(stack)
    assert fused.levels == levels
    pooled = sum(w * parts[name].values_ND for name, w in fusion.weights().items())
    np.testing.assert_allclose(fused.values_ND, pooled)
    best = value_of(Pinball(), fusion, stack, targets)
    for weights_M in [*np.eye(3), np.ones(3) / 3]:
        mixed = WeightedAverage.of(dict(zip(stack.members, weights_M, strict=True)))
        assert best <= value_of(Pinball(), mixed, stack, targets)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(InvalidValue, match="objective is 'best'; expected one of auto"):
        WeightedMean(objective="best")
    with pytest.raises(InvalidValue, match=r"shrink is 1.5; expected auto, or a share"):
        WeightedMean(shrink=1.5)
    with pytest.raises(InvalidValue, match="per_class is true and objective is metric"):
        WeightedMean(per_class=True, objective="metric")
    stack, targets = numbers_pool()
    with pytest.raises(InvalidValue, match="the members predict values, with weights for each"):
        WeightedMean(objective="log_loss", per_class=True).fit(stack, targets, Rmse())


def test_values_may_be_weighed_by_the_likelihood_of_normal_densities():
    stack, targets = numbers_pool(columns=("y", "z"))
    fusion = WeightedMean(objective="log_loss", shrink=0.0).fit(stack, targets, Rmse())
    densities_MN = np.ones((4, 200))
    for part, density_N in zip(stack.parts, densities_MN, strict=True):
        for column in range(2):
            errors_N = part.values_ND[:, column] - targets.values_ND[:, column]
            density_N *= norm.pdf(errors_N, scale=np.sqrt((errors_N**2).mean()))
    weights_M, _ = log_loss_weights(densities_MN, np.ones(200))
    assert fusion.weights() == pytest.approx(
        {m: w for m, w in zip(stack.members, weights_M.tolist(), strict=True) if w}, abs=1e-5
    )


def test_quantiles_with_weights_of_their_own_do_not_cross():
    ids = np.array(["row"])
    stack = Stack.align(
        {
            "low": Values(ids, ("q25", "q75"), np.array([[0.0, 1.0]]), (0.25, 0.75)),
            "high": Values(ids, ("q25", "q75"), np.array([[8.0, 9.0]]), (0.25, 0.75)),
        }
    )
    fused = ColumnAverage.of(stack, np.array([[0.0, 1.0], [1.0, 0.0]]))(stack)
    assert fused.values_ND.tolist() == [[1.0, 8.0]]
    assert fused.levels == (0.25, 0.75)
