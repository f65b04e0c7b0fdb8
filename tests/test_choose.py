# SPDX-License-Identifier: Apache-2.0
from typing import ClassVar

import numpy as np
import pytest

from box_pools import box_pool, same_bits
from fusetune.choose import BestMember, choose, cross_choose
from fusetune.choose.blending import blend_plan
from fusetune.errors import InvalidValue, PredictionError, UnknownName
from fusetune.fuse.forms import Blend, WeightedAverage
from fusetune.fuse.fusion import load_fusion, save_fusion
from fusetune.fuse.method import FusionMethod
from fusetune.fuse.methods.boxes.nms import Nms
from fusetune.fuse.methods.boxes.weighted_boxes import WeightedBoxes
from fusetune.fuse.methods.distributions.greedy_selection import GreedySelection
from fusetune.fuse.methods.distributions.mean import Mean
from fusetune.fuse.methods.distributions.weighted_mean import WeightedMean
from fusetune.fuse.reweighted import Reweighted
from fusetune.metric import Metric
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.coco_map import CocoMap
from fusetune.metrics.log_loss import LogLoss
from fusetune.plugins import find
from fusetune.predictions.folds import stratified_folds
from fusetune.predictions.kinds import Kind, Marginals, Probabilities, Values
from fusetune.predictions.stack import Stack, rows_of
from fusetune.predictions.targets import LabelSets, Numbers
from pools import pool

pytestmark = pytest.mark.slow

NAMES = (
    *("vote", "mean", "median", "geometric_mean", "rank_mean"),
    *("weighted_mean", "greedy_selection", "log_pool", "stacking"),
)
METHODS = {name: find(FusionMethod, name)() for name in NAMES}
LINEAR = {"mean": Mean(), "weighted_mean": WeightedMean(), "greedy_selection": GreedySelection()}


def value(metric, prediction, targets):
    return metric.value(metric.statistics(prediction, targets))


@pytest.mark.parametrize("metric", [Accuracy(), LogLoss()], ids=lambda m: m.name)
def test_auto_is_a_blend_of_candidates_refitted_on_the_whole_holdout(metric):
    stack, targets = pool(rows=150, noise=2.0)
    choice = choose(stack, targets, metric, METHODS)
    assert choice.chosen == "auto"
    blend = choice.fusion
    assert isinstance(blend, Blend)
    assert sum(blend.parts().values()) == pytest.approx(1)
    for name, part in zip(blend.names, blend.fusions, strict=True):
        assert part is choice.fusions[name]
    whole = METHODS["weighted_mean"].fit(stack, targets, metric)
    assert choice.fusions["weighted_mean"].weights() == pytest.approx(whole.weights())
    assert set(choice.fusions) == {"best_member", *METHODS, "auto"}
    assert set(choice.cross_fitted) == {"best_member", *METHODS}
    assert set(choice.seconds) == set(choice.fusions)
    assert min(choice.seconds.values()) >= 0


def test_half_of_autos_weights_is_greedy_selection_and_half_is_even_over_the_best():
    stack, targets = pool(rows=150, noise=2.0)
    choice = choose(stack, targets, LogLoss(), METHODS)
    by_id = targets.take(np.argsort(targets.ids))
    candidates = Stack.align(choice.cross_fitted, classes=stack.classes)
    selected = GreedySelection().fit(candidates, by_id, LogLoss()).weights()
    losses = {k: LogLoss().statistics(v, by_id)[:, 0] for k, v in choice.cross_fitted.items()}
    best_N = min(losses.values(), key=np.mean)
    near = [
        name
        for name, losses_N in losses.items()
        if (losses_N - best_N).mean() <= 2 * (losses_N - best_N).std() / np.sqrt(150)
    ]
    assert 0 < len(near) < len(losses)
    expected = {name: selected.get(name, 0) / 2 + (name in near) / len(near) / 2 for name in losses}
    expected = {name: weight for name, weight in expected.items() if weight}
    assert choice.fusion.parts() == pytest.approx(expected)


def test_a_candidate_that_repeats_a_simpler_one_has_no_weight():
    stack, targets = pool(members=4, rows=150, noise=2.0)
    methods = {"mean": Mean(), "trimmed_mean": find(FusionMethod, "trimmed_mean")()}
    assert set(choose(stack, targets, LogLoss(), methods).fusion.parts()) <= {"best_member", "mean"}


def skewed(rows=400):
    """Two classes, one of them a tenth of the rows."""
    stack, targets = pool(rows=8 * rows, classes=2, noise=2.0, skill=1.5)
    rare = np.flatnonzero(targets.labels_N == 1)[: rows // 10]
    common = np.flatnonzero(targets.labels_N == 0)[: rows - rows // 10]
    kept = np.sort(np.concatenate([rare, common]))
    return stack.take(kept), targets.take(kept)


def test_where_classes_weigh_alike_their_shares_are_divided_out():
    stack, targets = skewed()
    metric = find(Metric, "balanced_accuracy")()
    choice = choose(stack, targets, metric, METHODS)
    plain = Blend(
        names=choice.fusion.names,
        fusions=tuple(part.fusion for part in choice.fusion.fusions),
        weights_F=choice.fusion.weights_F,
    )
    assert (
        value(metric, choice.fusion(stack), targets) > value(metric, plain(stack), targets) + 0.05
    )
    for part in choice.fusion.fusions:
        assert isinstance(part, Reweighted)
        fused, before = part(stack).probs_NC, part.fusion(stack).probs_NC
        shares_C = (np.bincount(targets.labels_N) + 1) / 402
        assert any(np.allclose(part.shares_C, shares_C**power) for power in (1, 0.5))
        expected_NC = before / part.shares_C
        expected_NC /= expected_NC.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(fused, expected_NC, rtol=1e-9)


def test_macro_f1_divides_by_less_than_balanced_accuracy():
    metrics = {name: find(Metric, name)() for name in ("balanced_accuracy", "macro_f1")}
    stack, targets = skewed(2_000)
    divisors = {
        name: choose(stack, targets, metric, {"log_pool": METHODS["log_pool"]})
        .fusion.fusions[0]
        .shares_C
        for name, metric in metrics.items()
    }
    shares_C = (np.bincount(targets.labels_N) + 1) / 2_002
    np.testing.assert_allclose(divisors["balanced_accuracy"], shares_C)
    np.testing.assert_allclose(divisors["macro_f1"], np.sqrt(shares_C))


def test_a_reweighted_choice_is_saved_and_loaded(tmp_path):
    stack, targets = skewed()
    fusion = choose(stack, targets, find(Metric, "balanced_accuracy")(), LINEAR).fusion
    save_fusion(fusion, tmp_path)
    loaded = load_fusion(tmp_path)
    assert loaded(stack).probs_NC.tobytes() == fusion(stack).probs_NC.tobytes()
    assert loaded.weights() == fusion.weights()


@pytest.mark.parametrize("how", ["auto", "best"])
def test_honest_predictions_are_those_of_a_choice_without_the_fold(how):
    stack, targets = pool(rows=100, noise=2.0)
    choice = cross_choose(stack, targets, LogLoss(), METHODS, choose=how, seed=3)
    order = np.argsort(stack.ids)
    stack, targets = stack.take(order), targets.take(order)
    folds_N = stratified_folds(targets, 5, seed=3)
    assert choice.honest.ids.tolist() == stack.ids.tolist()
    for judged in (0, 3):
        fit, rows = np.flatnonzero(folds_N != judged), np.flatnonzero(folds_N == judged)
        inner = {name: [] for name in choice.cross_fitted}
        others = [fold for fold in range(5) if fold != judged]
        for fold in others:
            seen = np.flatnonzero((folds_N != fold) & (folds_N != judged))
            part = np.flatnonzero(folds_N == fold)
            for name in inner:
                method = METHODS.get(name, BestMember())
                # What reads no targets cannot have seen them, and is fitted once.
                used = seen if method.needs_targets else np.arange(len(stack))
                fusion = method.fit(stack.take(used), targets.take(used), LogLoss())
                inner[name].append(fusion(stack.take(part)))
        fused = {name: Probabilities.concat(parts) for name, parts in inner.items()}
        truth = targets.take(rows_of(targets.ids, fused["mean"].ids))
        if how == "auto":
            weights = blend_plan(fused, truth, LogLoss()).weights
        else:
            values = {name: value(LogLoss(), part, truth) for name, part in fused.items()}
            weights = {min(values, key=values.get): 1.0}
        pooled = 0
        for name, weight in weights.items():
            method = METHODS.get(name, BestMember())
            seen = fit if method.needs_targets else np.arange(len(stack))
            fusion = method.fit(stack.take(seen), targets.take(seen), LogLoss())
            pooled = pooled + weight * fusion(stack.take(rows)).probs_NC
        np.testing.assert_allclose(choice.honest.probs_NC[rows], pooled, atol=1e-9)


class Counting(WeightedMean):
    """Counts its fits, and says which rows they saw."""

    seen: ClassVar[list] = []

    def fit(self, stack, targets, metric, *, sample_weights_N=None):
        self.seen.append(frozenset(stack.ids.tolist()))
        return super().fit(stack, targets, metric)


def test_nested_judging_takes_16_fits():
    stack, targets = pool(rows=100, noise=2.0)
    Counting.seen.clear()
    cross_choose(stack, targets, LogLoss(), {"counting": Counting()})
    assert sorted(len(rows) for rows in Counting.seen) == [60] * 10 + [80] * 5 + [100]
    assert len(set(Counting.seen)) == 16


def test_nested_judging_ends_with_the_same_choice():
    stack, targets = pool(rows=150, noise=2.0)
    for how in ("auto", "best", "stacking"):
        one = choose(stack, targets, Accuracy(), METHODS, choose=how)
        two = cross_choose(stack, targets, Accuracy(), METHODS, choose=how)
        assert one.chosen == two.chosen
        assert one.fusion(stack).probs_NC.tobytes() == two.fusion(stack).probs_NC.tobytes()
        assert set(two.cross_fitted) == {"best_member", *METHODS}
    assert two.honest is not None
    np.testing.assert_array_equal(two.honest.probs_NC, two.cross_fitted["stacking"].probs_NC)


@pytest.mark.parametrize("how", ["auto", "best", "stacking"])
@pytest.mark.parametrize("rows", [2, 3, 7])
def test_a_handful_of_rows_is_judged_too(how, rows):
    stack, targets = pool(rows=rows)
    choice = cross_choose(stack, targets, Accuracy(), METHODS, choose=how)
    assert sorted(choice.honest.ids.tolist()) == sorted(stack.ids.tolist())
    Probabilities(choice.honest.ids, choice.honest.classes, choice.honest.probs_NC)


def test_one_row_cannot_judge_what_it_fitted():
    stack, targets = pool(rows=1)
    with pytest.raises(PredictionError, match="one row is given"):
        cross_choose(stack, targets, Accuracy(), METHODS)


def numbers(rows=120, *, seed=0):
    random = np.random.default_rng(seed)
    ids = np.array([f"row{n}" for n in range(rows)])
    true_ND = random.normal(size=(rows, 2))
    parts = {
        f"member{m}": Values(
            ids, ("x", "y"), true_ND + (0.5 + m) * random.normal(size=(rows, 2)) + 0.1 * m
        )
        for m in range(3)
    }
    return Stack.align(parts), Numbers(ids, ("x", "y"), true_ND)


def test_numbers_are_chosen_among_and_judged_like_classes():
    stack, targets = numbers()
    metric = find(Metric, "rmse")()
    methods = {
        "mean": Mean(),
        "median": find(FusionMethod, "median")(),
        "weighted_mean": WeightedMean(),
    }
    choice = cross_choose(stack, targets, metric, methods)
    assert set(choice.fusion.parts()) <= {"best_member", *methods}
    by_id = targets.take(np.argsort(targets.ids))
    honest = value(metric, choice.honest, by_id)
    assert honest < value(metric, stack["member0"], targets)
    assert choice.best_member == "member0"


def test_label_sets_are_chosen_among():
    random = np.random.default_rng(0)
    ids = np.array([f"row{n}" for n in range(120)])
    present_NC = random.random((120, 3)) < 0.3
    parts = {
        f"member{m}": Marginals.from_logits(
            ids, ("a", "b", "c"), 3 * present_NC - 1.5 + 2 * random.normal(size=(120, 3))
        )
        for m in range(3)
    }
    stack, targets = Stack.align(parts), LabelSets(ids, ("a", "b", "c"), present_NC)
    metric = find(Metric, "multilabel_log_loss")()
    methods = {"mean": Mean(), "weighted_mean": WeightedMean()}
    choice = cross_choose(stack, targets, metric, methods)
    by_id = targets.take(np.argsort(targets.ids))
    assert value(metric, choice.honest, by_id) < value(metric, stack["member0"], targets)


def test_cross_fitted_rows_come_from_fusions_that_did_not_see_them():
    stack, targets = pool(rows=150, noise=2.0)
    choice = choose(stack, targets, LogLoss(), {"weighted_mean": WeightedMean()}, seed=4)
    folds_N = stratified_folds(targets, 5, seed=4)
    fused = choice.cross_fitted["weighted_mean"]
    assert sorted(fused.ids.tolist()) == sorted(stack.ids.tolist())
    for fold in range(5):
        fit, judge = np.flatnonzero(folds_N != fold), np.flatnonzero(folds_N == fold)
        fusion = WeightedMean().fit(stack.take(fit), targets.take(fit), LogLoss())
        expected = fusion(stack.take(judge))
        found = fused.take(rows_of(fused.ids, expected.ids))
        np.testing.assert_allclose(found.probs_NC, expected.probs_NC, atol=1e-6)


def test_blended_averages_read_as_member_weights():
    stack, targets = pool(rows=150, noise=2.0)
    fusion = choose(stack, targets, LogLoss(), LINEAR).fusion
    weights = fusion.weights()
    assert sum(weights.values()) == pytest.approx(1)
    np.testing.assert_allclose(
        fusion(stack).probs_NC, WeightedAverage.of(weights)(stack).probs_NC, rtol=1e-9
    )


@pytest.mark.parametrize("how", ["auto", "best"])
def test_the_order_of_the_rows_does_not_matter(how):
    stack, targets = pool(rows=120, noise=2.0)
    order = np.random.default_rng(3).permutation(120)
    one = choose(stack, targets, Accuracy(), METHODS, choose=how)
    two = choose(stack.take(order), targets.take(order), Accuracy(), METHODS, choose=how)
    assert one.chosen == two.chosen
    assert one.fusion(stack).probs_NC.tobytes() == two.fusion(stack).probs_NC.tobytes()


def test_the_seed_deals_other_folds_and_repeats_itself():
    stack, targets = pool(rows=120, noise=2.0)
    runs = [choose(stack, targets, LogLoss(), LINEAR, seed=seed) for seed in (1, 1, 2)]
    fused = [run.cross_fitted["weighted_mean"].probs_NC.tobytes() for run in runs]
    assert fused[0] == fused[1] != fused[2]


def test_best_takes_the_candidate_whose_cross_fitted_value_is_best():
    stack, targets = pool(rows=150, noise=2.0)
    choice = choose(stack, targets, LogLoss(), METHODS, choose="best")
    values = {
        name: value(LogLoss(), fused, targets.take(rows_of(targets.ids, fused.ids)))
        for name, fused in choice.cross_fitted.items()
    }
    assert choice.chosen == min(values, key=values.get)
    assert "auto" not in choice.fusions


def test_a_named_method_is_taken_without_cross_fitting():
    stack, targets = pool()
    choice = choose(stack, targets, Accuracy(), METHODS, choose="vote")
    assert choice.chosen == "vote"
    assert choice.cross_fitted == {}
    assert choose(stack, targets, Accuracy(), {}, choose="best_member").chosen == "best_member"


def test_best_member_is_the_one_that_looks_best_on_the_holdout():
    stack, targets = pool(members=6, rows=150, noise=2.0)
    for metric in (Accuracy(), LogLoss()):
        choice = choose(stack, targets, metric, {"mean": Mean()}, choose="mean")
        values = [value(metric, part, targets) for part in stack.parts]
        best = np.argmax(values) if metric.higher_is_better else np.argmin(values)
        assert choice.best_member == stack.members[best]
        assert choice.fusions["best_member"].weights() == {choice.best_member: 1.0}


@pytest.mark.parametrize("how", ["auto", "best"])
def test_identical_members_give_the_simplest_candidate(how):
    stack, targets = pool(members=1, rows=100)
    same = Stack.align(dict.fromkeys(["x", "y"], stack.parts[0]), classes=stack.classes)
    choice = choose(same, targets, Accuracy(), LINEAR, choose=how)
    assert choice.best_member == "x"
    if how == "best":
        assert choice.chosen == "best_member"
    else:
        assert choice.fusion.parts() == {"best_member": 1.0}


def test_classes_with_hardly_any_rows_are_blended_too():
    gains = []
    for seed in range(8):
        stack, targets = pool(members=5, rows=420, classes=6, noise=2.0, seed=seed)
        fit, judge = np.arange(20), np.arange(20, 420)
        choice = choose(stack.take(fit), targets.take(fit), LogLoss(), METHODS)
        assert isinstance(choice.fusion, Blend)
        greedy = choice.fusions["greedy_selection"](stack.take(judge))
        fused = choice.fusion(stack.take(judge))
        gains.append(
            value(LogLoss(), greedy, targets.take(judge))
            - value(LogLoss(), fused, targets.take(judge))
        )
    assert np.mean(gains) > 0


@pytest.mark.parametrize("how", ["auto", "best", "stacking"])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_handful_of_rows_is_enough_to_answer(how, rows):
    stack, targets = pool(rows=rows)
    choice = choose(stack, targets, Accuracy(), METHODS, choose=how)
    fused = choice.fusion(stack)
    Probabilities(fused.ids, fused.classes, fused.probs_NC)


def test_one_member_is_what_every_candidate_gives():
    stack, targets = pool(members=1, rows=100)
    for how in ("auto", "best", *METHODS):
        fused = choose(stack, targets, Accuracy(), METHODS, choose=how).fusion(stack)
        assert fused.labels().tolist() == stack.parts[0].labels().tolist()


def test_members_with_different_classes_are_blended():
    stack, targets = pool(rows=150, noise=2.0)
    probs_NC = stack.parts[1].probs_NC[:, :3] / stack.parts[1].probs_NC[:, :3].sum(1, keepdims=True)
    partial = Probabilities(stack.ids, stack.classes[:3], probs_NC)
    parts = {"three": partial, "all": stack.parts[0], "too": stack.parts[2]}
    mixed = Stack.align(parts, classes=stack.classes)
    choice = choose(mixed, targets, LogLoss(), METHODS)
    fused = choice.fusion(mixed)
    Probabilities(fused.ids, fused.classes, fused.probs_NC)
    assert value(LogLoss(), fused, targets) < value(LogLoss(), stack.parts[0], targets)


def test_unknown_choices_list_the_candidates_and_the_nearest():
    stack, targets = pool()
    with pytest.raises(UnknownName, match=r"best_member.*Did you mean 'weighted_mean'\?"):
        choose(stack, targets, Accuracy(), LINEAR, choose="weigthed_mean")


def test_reserved_names_are_refused():
    stack, targets = pool()
    with pytest.raises(InvalidValue, match="a fusion method is called 'auto'"):
        choose(stack, targets, Accuracy(), {"auto": Mean()})


def test_methods_for_other_kinds_are_refused():
    class Other(Mean):
        accepts = frozenset({Kind})

    stack, targets = pool()
    with pytest.raises(InvalidValue, match="the fusion method 'other' fuses Kind"):
        choose(stack, targets, Accuracy(), {"other": Other()})


def test_an_empty_holdout_is_refused():
    stack, targets = pool()
    none = np.arange(0)
    with pytest.raises(PredictionError, match="no holdout row"):
        choose(stack.take(none), targets.take(none), Accuracy(), LINEAR)


def test_boxes_have_no_average_so_auto_takes_the_best():
    stack, targets = box_pool(rows=40)
    methods = {"nms": Nms(), "weighted_boxes": WeightedBoxes()}
    found = cross_choose(stack, targets, CocoMap(), methods)
    assert found.chosen == "weighted_boxes" and "auto" not in found.fusions
    metric = CocoMap()
    values = {
        name: metric.value(metric.statistics(part, targets.take(rows_of(targets.ids, part.ids))))
        for name, part in found.cross_fitted.items()
    }
    assert max(values, key=values.get) == "weighted_boxes"
    assert found.fusions["best_member"].members == (found.best_member,)
    assert same_bits(
        found.fusions["best_member"](stack), stack[found.best_member].over(stack.classes)
    )
    assert len(found.honest) == len(stack)
    again = choose(stack, targets, CocoMap(), methods)
    assert again.chosen == "weighted_boxes"
