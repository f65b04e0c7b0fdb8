# SPDX-License-Identifier: Apache-2.0
"""Soups against averages computed by hand, on two or three members of a few weights."""

import numpy as np
import pytest

from fusetune.errors import InvalidValue, WeightsError
from fusetune.fuse.soup import Candidate, Ingredients
from fusetune.fuse.souping import Start, make_soup
from fusetune.fuse.soups.greedy_soup import GreedySoup
from fusetune.fuse.soups.learned_soup import LearnedSoup
from fusetune.fuse.soups.model_stock import ModelStock, interpolation_ratio
from fusetune.fuse.soups.task_arithmetic import TaskArithmetic
from fusetune.fuse.soups.ties import Ties, agreed, smallest_kept, trimmed
from fusetune.fuse.soups.uniform_soup import UniformSoup
from fusetune.fuse.soups.wise_ft import WiseFt
from fusetune.fuse.state_dicts import state_checksum

START = {"w": np.array([1.0, 1.0, 1.0, 1.0], dtype=np.float32)}


def state(*values, count=0):
    return {"w": np.array(values, dtype=np.float32), "count": np.array(count)}


def nearest(*goal):
    """A trial that likes weights near a goal: the loss is the squared distance."""

    def trial(weights, *, refresh=True):
        loss = float(((weights["w"].astype(float) - np.array(goal)) ** 2).sum())
        return Candidate(state=weights, score=-loss, loss=loss)

    return trial


def soup(method, states, goal, start=None):
    named = dict(zip("abc", states, strict=False))
    known = None if start is None else {"count": np.array(0), **start}
    begun = Start(shared=True, state=known)
    return make_soup(method, named, nearest(*goal), start=begun)


def mixture(made):
    """What the method gave, whether or not the best member was better."""
    return made.cooked.candidate.state["w"].tolist()


def test_uniform_soup_is_the_average():
    made = soup(
        UniformSoup(), [state(1, 2, 3, 4), state(3, 0, 5, 4), state(2, 1, 1, 1)], (2, 1, 3, 3)
    )
    assert mixture(made) == [2, 1, 3, 3]
    assert made.cooked.weights == {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    assert not made.fell_back


def test_greedy_soup_keeps_what_does_not_harm():
    # a is best; with b the average is the goal itself; with c, far away, it would be worse.
    states = [state(0, 0, 0, 1), state(0, 0, 0, -2), state(9, 9, 9, 9)]
    made = soup(GreedySoup(), states, (0, 0, 0, -0.5))
    assert mixture(made) == [0, 0, 0, -0.5]
    assert made.cooked.weights == {"a": 0.5, "b": 0.5, "c": 0.0}
    alone = soup(GreedySoup(), states, (0, 0, 0, 1))
    assert alone.cooked.weights == {"a": 1.0, "b": 0.0, "c": 0.0}
    assert alone.same_as == "a"
    assert alone.state is states[0]


def test_greedy_soup_averages_alike_whoever_came_first():
    # After a and b (average 0, 0) c is added, and all three count a third.
    states = [state(1, 0, 0, 0), state(-1, 0, 0, 0), state(0, 3, 0, 0)]
    made = soup(GreedySoup(), states, (0, 1, 0, 0))
    assert made.cooked.weights == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    assert mixture(made) == [0, 1, 0, 0]


def test_learned_soup_finds_the_weights():
    states = [state(1, 0, 0, 0), state(0, 1, 0, 0), state(0, 0, 1, 0)]
    made = soup(LearnedSoup(), states, (0.5, 0.25, 0.25, 0))
    assert made.cooked.weights == pytest.approx({"a": 0.5, "b": 0.25, "c": 0.25}, abs=0.01)
    assert mixture(made) == pytest.approx([0.5, 0.25, 0.25, 0], abs=0.01)
    assert sum(made.cooked.weights.values()) == pytest.approx(1)


def test_wise_ft_goes_back_as_far_as_the_holdout_says():
    made = soup(WiseFt(), [state(3, 1, 1, 5)], (1.6, 1, 1, 2.2), START)
    assert made.cooked.settings == {"coefficient": 0.3}
    assert mixture(made) == pytest.approx([1.6, 1, 1, 2.2], abs=1e-6)
    assert made.cooked.along[0.3] == pytest.approx(0, abs=1e-6)
    whole = soup(WiseFt(), [state(3, 1, 1, 5)], (3, 1, 1, 5), START)
    assert whole.same_as == "a"
    fixed = soup(WiseFt(coefficients=(0.5,)), [state(3, 1, 1, 5)], (3, 1, 1, 5), START)
    assert mixture(fixed) == [2, 1, 1, 3]
    assert fixed.fell_back
    several = soup(
        WiseFt(coefficients=(0.5,)), [state(3, 1, 1, 5), state(5, 1, 1, 1)], (0, 0, 0, 0), START
    )
    assert mixture(several) == [2.5, 1, 1, 2]  # halfway to the average (4, 1, 1, 3)


def test_task_arithmetic_adds_the_changes():
    # Changes (2, 0, 0, 4) and (0, 0, -1, -2): their sum is (2, 0, -1, 2).
    states = [state(3, 1, 1, 5), state(1, 1, 0, -1)]
    made = soup(TaskArithmetic(scalings=(0.5,)), states, (0, 0, 0, 0), START)
    assert mixture(made) == [2, 1, 0.5, 2]
    whole = soup(TaskArithmetic(), states, (3, 1, 0, 3), START)
    assert whole.cooked.settings == {"scaling": 1.0}
    assert mixture(whole) == [3, 1, 0, 3]
    three = soup(TaskArithmetic(), [*states, state(1, 1, 1, 1)], (5 / 3, 1, 2 / 3, 5 / 3), START)
    assert three.cooked.settings == {"scaling": 1 / 3}  # the plain average is tried too


def test_model_stock_of_two_by_its_angle():
    # Changes (2, 0, 0, 0) and (3, 4, 0, 0): cosine 0.6, t = 1.2 / 1.6 = 0.75 of their mean (2.5, 2).
    assert interpolation_ratio([np.array([2.0, 0.0]), np.array([3.0, 4.0])]) == pytest.approx(0.75)
    made = soup(ModelStock(), [state(3, 1, 1, 1), state(4, 5, 1, 1)], (0, 0, 0, 0), START)
    assert mixture(made) == pytest.approx([2.875, 2.5, 1, 1])
    assert made.cooked.settings == {"ratio": pytest.approx(0.75)}


def test_model_stock_keeps_the_start_where_changes_oppose_and_the_average_where_none_moved():
    opposed = [np.array([1.0, 0.0]), np.array([-1.0, 0.1])]
    assert interpolation_ratio(opposed) == 0
    right_angle = [np.array([1.0, 0.0]), np.array([0.0, 2.0])]
    assert interpolation_ratio(right_angle) == 0
    assert interpolation_ratio([np.zeros(2), np.zeros(2)]) == 1
    assert interpolation_ratio([np.zeros(2), np.ones(2)]) == 1
    three = [np.array([1.0, 0.0]), np.array([1.0, 0.0]), np.array([0.0, 1.0])]  # mean cosine 1/3
    assert interpolation_ratio(three) == pytest.approx(3 * (1 / 3) / (1 + 2 / 3))


def test_ties_trims_elects_and_merges():
    # Changes: a (4, 0.1, -3, 0.2), b (2, 0.3, 5, -0.1). Half of each stays: a (4, 0, -3, 0) and
    # b (2, 0, 5, 0). Signs of the sums: +, 0, +, 0. Agreeing: (4 and 2), none, (5), none.
    states = [state(5, 1.1, -2, 1.2), state(3, 1.3, 6, 0.9)]
    made = soup(Ties(density=0.5, scalings=(1.0,)), states, (0, 0, 0, 0), START)
    assert mixture(made) == [4, 1, 6, 1]
    half = soup(Ties(density=0.5, scalings=(0.5,)), states, (0, 0, 0, 0), START)
    assert mixture(half) == [2.5, 1, 3.5, 1]
    chosen = soup(Ties(density=0.5), states, (5.5, 1, 8.5, 1), START)
    assert chosen.cooked.settings == {"scaling": 1.5, "density": 0.5}


def test_the_parts_of_ties():
    changes = [np.array([[3.0, -1.0]]), np.array([2.0, 2.0])]
    assert smallest_kept(changes, 0.25) == 3
    assert smallest_kept(changes, 0.5) == 2
    assert smallest_kept(changes, 0.01) == 3  # one stays at least
    assert smallest_kept(changes, 1) == 1
    assert trimmed(np.array([2.0, -1.0, -2.0]), 2.0).tolist() == [2, 0, -2]  # equals all stay
    assert agreed([np.array([1.0, 0.0]), np.array([-1.0, 0.0])]).tolist() == [0, 0]  # no sign


def test_a_soup_that_is_worse_is_its_best_member():
    states = [state(1, 0, 0, 0), state(-1, 0, 0, 0)]
    made = soup(UniformSoup(), states, (-1, 0.5, 0, 0))
    assert made.fell_back
    assert (made.best, made.same_as) == ("b", "b")
    assert made.state is states[1]
    assert mixture(made) == [0, 0, 0, 0]


def test_outputs_that_are_not_finite_never_win():
    def trial(weights, *, refresh=True):
        broken = refresh and float(weights["w"][0]) == 0
        loss = np.inf if broken else 1.0
        return Candidate(state=weights, score=-loss, loss=loss)

    states = {"a": state(1, 0, 0, 0), "b": state(-1, 0, 0, 0)}
    made = make_soup(UniformSoup(), states, trial, start=Start(shared=True))
    assert made.fell_back
    assert made.state is states["a"]


def test_the_loss_is_measured_on_the_way_between_members():
    def trial(weights, *, refresh=True):
        at = float(weights["w"][0])
        loss = 1 - at**2 + at / 2  # a hill between -1 (0.5 lower) and 1
        return Candidate(state=weights, score=-loss, loss=loss)

    states = {"a": state(-1, 0, 0, 0), "b": state(1, 0, 0, 0)}
    made = make_soup(UniformSoup(), states, trial, start=Start(shared=True))
    (path,) = made.paths
    assert path.ends == ("a", "b")
    assert path.losses == (-0.5, 0.5, 1.0, 1.0, 0.5)
    assert path.barrier == 1.0


def test_whole_numbers_are_the_best_members():
    states = [state(1, 0, 0, 0, count=7), state(-1, 0, 0, 0, count=12)]
    made = soup(UniformSoup(), states, (-0.3, 0, 0, 0))
    assert made.best == "b"
    assert not made.fell_back
    assert made.state["count"] == 12


def test_statistics_are_averaged_and_measured_by_no_method():
    states = {
        "a": {"w": np.array([2.0, 1.0]), "var": np.array([100.0])},
        "b": {"w": np.array([2.0, 1.0]), "var": np.array([300.0])},
    }
    start = {"w": np.array([1.0, 1.0]), "var": np.array([1000.0])}
    for method in (Ties(density=0.4, scalings=(1.0,)), TaskArithmetic(scalings=(1.0,))):
        made = make_soup(
            method,
            states,
            nearest(0, 0),
            start=Start(shared=True, state=start),
            statistics=frozenset({"var"}),
        )
        assert made.cooked.candidate.state["var"].tolist() == [200]
        assert made.cooked.candidate.state["w"][0] in (2, 3)


def test_half_precision_is_summed_in_double_and_stays_half():
    states = {
        name: {"w": np.array([v], dtype=np.float16)} for name, v in (("a", 60000), ("b", 40032))
    }
    made = make_soup(UniformSoup(), states, nearest(50016), start=Start(shared=True))
    assert made.state["w"].dtype == np.float16
    assert float(made.state["w"][0]) == 50016  # the sum is above what half precision holds


def test_what_cannot_be_averaged_is_named():
    def refused(match, other, method=None, start=None):
        method, start = method or UniformSoup(), start or Start(shared=True)
        with pytest.raises(WeightsError, match=match):
            make_soup(method, {"a": state(1, 2, 3, 4), "b": other}, nearest(0), start=start)

    good = state(1, 2, 3, 4)
    refused("only 'a' has the weights 'count', of 'a' and 'b'", {"w": good["w"]})
    refused("only 'b' has the weights 'extra'", {**good, "extra": good["w"]})
    refused(
        r"'w' is 4 \(float32\) in 'a' and 2×2 \(float32\)", {**good, "w": good["w"].reshape(2, 2)}
    )
    refused(r"in 'a' and 4 \(float64\) in 'b'", {**good, "w": good["w"].astype(float)})
    refused("'w' of 'b' holds NaN or infinity", {**good, "w": np.float32([1, 2, np.nan, 4])})
    broken = Start(shared=True, state={**good, "w": np.float32([1, 2, np.inf, 4])})
    refused("'w' of 'the start' holds NaN", good, ModelStock(), broken)
    refused("and these are not known", good, ModelStock())
    doubtful = Start(shared=None, state=good, reason="their `weights` differ")
    refused(
        "wise_ft measures from the weights .*, and their `weights` differ", good, WiseFt(), doubtful
    )
    with pytest.raises(WeightsError, match="the type complex128"):
        make_soup(UniformSoup(), {"a": {"w": np.array([1j])}}, nearest(0), start=Start(shared=True))


@pytest.mark.parametrize(
    ("method", "settings", "match"),
    [
        (WiseFt, {"coefficients": ()}, r"coefficients is \[\]"),
        (WiseFt, {"coefficients": (0.0, 0.5)}, "numbers above 0, up to 1"),
        (WiseFt, {"coefficients": (1.5,)}, "numbers above 0, up to 1"),
        (TaskArithmetic, {"scalings": ()}, r"scalings is \[\]"),
        (TaskArithmetic, {"scalings": (-1.0,)}, "numbers above 0"),
        (Ties, {"scalings": (0.0,)}, "numbers above 0"),
        (Ties, {"density": 0.0}, "density is 0.0"),
        (Ties, {"density": 1.1}, "a share above 0, up to 1"),
    ],
)
def test_settings_outside_their_range_are_refused(method, settings, match):
    with pytest.raises(InvalidValue, match=match):
        method(**settings)


def test_a_checksum_names_the_content():
    one = state(1, 2, 3, 4)
    assert state_checksum(one) == state_checksum(dict(reversed(one.items())))
    assert state_checksum(one) != state_checksum(state(1, 2, 3, 5))
    assert state_checksum(one) != state_checksum({**one, "w": one["w"].reshape(2, 2)})


def test_the_best_is_first_by_score_then_by_loss():
    made = {
        name: Candidate(state={}, score=score, loss=loss)
        for name, score, loss in (
            ("a", 0.9, 0.4),
            ("b", 0.9, 0.3),
            ("c", 0.8, 0.1),
            ("d", 0.9, 0.3),
        )
    }
    assert Ingredients(members=made).best == "b"
