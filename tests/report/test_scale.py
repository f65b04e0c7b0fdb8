# SPDX-License-Identifier: Apache-2.0
"""Scales: round ticks, everything inside, whatever the values."""

import math

import pytest

from fusetune.report.scale import Scale, finite


@pytest.mark.parametrize(
    "values",
    [[0.0], [5.0, 5.0], [-0.003, 0.002], [1e-9, 3e-9], [0, 1e6], [93.41, 95.2], [-2.0, -1.0], []],
)
def test_values_lie_inside_and_ticks_are_few_and_round(values):
    scale = Scale.covering(values)
    assert all(0 <= scale.at(value) <= 100 for value in values)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 8
    assert len({label for _, label in ticks}) == len(ticks)
    for at, label in ticks:
        assert 0 <= at <= 100
        shown = float(label.replace("−", "-"))
        assert scale.at(shown) == pytest.approx(at, abs=0.02)  # the label says where it stands


def test_values_that_cannot_be_drawn_are_left_out():
    assert finite([1.0, None, math.nan, math.inf, -2.0]) == [1.0, -2.0]
    scale = Scale.covering([0.1, math.inf, None, 0.3])
    assert scale.high < 1


def test_limits_hold_the_ends_back():
    scale = Scale.covering([99.0, 100.0], limits=(0.0, 100.0))
    assert scale.high == 100
    assert scale.up(100) == 0
