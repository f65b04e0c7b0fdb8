# SPDX-License-Identifier: Apache-2.0
"""Laws that every soup keeps, on the day its file appears."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusetune.errors import WeightsError
from fusetune.fuse.soup import Candidate, Soup
from fusetune.fuse.souping import Start, make_soup
from fusetune.plugins import discover
from pools import EXAMPLES

SOUPS = discover(Soup)
every_soup = pytest.mark.parametrize("method", SOUPS.values(), ids=SOUPS)
some = settings(max_examples=EXAMPLES, deadline=None)
SHAPES = {"conv.weight": (3, 2, 2), "conv.bias": (3,), "norm.running_var": (3,), "scale": ()}


def state_of(random, around=None, width=1.0):
    """A small model: weights, statistics above 0, a counter and a mask."""
    made = {}
    for name, shape in SHAPES.items():
        values = np.asarray(random.normal(scale=width, size=shape))
        values = np.abs(values) + 0.1 if "var" in name else values
        if around is not None and "var" not in name:
            values = values + around[name]
        made[name] = values.astype(np.float32)
    made["counter"] = np.array(int(random.integers(1000)))
    made["mask"] = np.array([True, False])
    return made


def likes(goal):
    """A trial whose loss is the distance to a goal."""

    def trial(state, *, refresh=True):
        loss = sum(float(((state[name].astype(float) - goal[name]) ** 2).sum()) for name in SHAPES)
        return Candidate(state=state, score=-round(loss, 1), loss=loss)

    return trial


@st.composite
def kitchens(draw, members=(1, 4)):
    """A start, members around it, and what the trial likes."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    start = state_of(random)
    num = draw(st.integers(*members))
    states = {f"m{i}": state_of(random, start, 0.3) for i in range(num)}
    return start, states, likes(state_of(random, start, 0.3))


def made_by(method, start, states, trial):
    statistics = frozenset({"norm.running_var"})
    begun = Start(shared=True, state=start)
    return make_soup(method(), states, trial, start=begun, statistics=statistics)


def bits(state):
    return {name: (value.dtype, value.shape, value.tobytes()) for name, value in state.items()}


@every_soup
@some
@given(drawn=kitchens())
def test_a_model_of_the_same_form_comes_out_and_nothing_is_changed(method, drawn):
    start, states, _ = drawn
    before = {name: bits(state) for name, state in {**states, "start": start}.items()}
    made = made_by(method, *drawn)
    first = next(iter(states.values()))
    for name, value in made.state.items():
        assert (value.shape, value.dtype) == (first[name].shape, first[name].dtype)
        assert np.isfinite(value).all()
    assert list(made.state) == list(first)
    assert before == {name: bits(state) for name, state in {**states, "start": start}.items()}
    assert bits(made.state) == bits(made_by(method, *drawn).state)


@every_soup
@some
@given(drawn=kitchens(members=(1, 4)))
def test_a_soup_is_never_worse_than_its_best_member(method, drawn):
    _, states, trial = drawn
    made = made_by(method, *drawn)
    best = max(trial(state).rank for state in states.values())
    assert trial(made.state).rank >= best
    assert made.fell_back == (made.cooked.candidate.rank < best)


@every_soup
@some
@given(drawn=kitchens())
def test_whole_numbers_are_a_members_own(method, drawn):
    states = drawn[1]
    made = made_by(method, *drawn)
    kept = states[made.same_as or made.best]
    assert made.state["counter"] == kept["counter"]
    assert made.state["mask"].tolist() == kept["mask"].tolist()


@every_soup
@some
@given(drawn=kitchens(members=(1, 1)))
def test_one_member_that_the_holdout_likes_best_is_itself(method, drawn):
    start, states, _ = drawn
    (only,) = states.values()
    made = made_by(method, start, states, likes(only))
    assert bits(made.state) == bits(only)


@every_soup
@some
@given(drawn=kitchens(members=(1, 1)), num=st.integers(2, 5))
def test_identical_members_give_that_member(method, drawn, num):
    start, states, trial = drawn
    (only,) = states.values()
    same = {f"m{i}": only for i in range(num)}
    scored = trial if method.keeps_equals else likes(only)
    made = made_by(method, start, same, scored)
    result = made.cooked.candidate.state if method.keeps_equals else made.state
    for name, value in only.items():  # sums of up to 5 in double precision, rounded to single
        np.testing.assert_allclose(result[name], value, rtol=2**-23, atol=2**-23)


@every_soup
@some
@given(drawn=kitchens(members=(2, 4)), order=st.randoms(use_true_random=False))
def test_the_members_order_changes_no_bit(method, drawn, order):
    start, states, trial = drawn
    ranks = {trial(state).rank for state in states.values()}
    if len(ranks) < len(states):
        return  # between equals the first decides
    names = list(states)
    order.shuffle(names)
    made = made_by(method, start, states, trial)
    again = made_by(method, start, {name: states[name] for name in names}, trial)
    if method.any_order:
        assert bits(again.state) == bits(made.state)
    else:
        assert again.best == made.best


@every_soup
def test_what_does_not_fit_is_refused_by_name(method):
    random = np.random.default_rng(0)
    start, one, two = (state_of(random) for _ in range(3))
    trial = likes(one)
    without = {name: value for name, value in two.items() if name != "scale"}
    with pytest.raises(WeightsError, match="'scale'"):
        made_by(method, start, {"a": one, "b": without}, trial)
    with pytest.raises(WeightsError, match=r"'conv\.bias' is 3 "):
        made_by(
            method, start, {"a": one, "b": {**two, "conv.bias": np.zeros(4, np.float32)}}, trial
        )
    broken = two["conv.weight"].copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(WeightsError, match=r"'conv\.weight' of 'b' holds NaN"):
        made_by(method, start, {"a": one, "b": {**two, "conv.weight": broken}}, trial)
    if method.needs_start:
        with pytest.raises(WeightsError, match="'the start'"):
            made_by(method, without, {"a": one, "b": two}, trial)
        with pytest.raises(WeightsError, match="members of one start"):
            make_soup(method(), {"a": one, "b": two}, trial, start=Start(shared=None))
