# SPDX-License-Identifier: Apache-2.0
"""Costs add up, and what is not known stays unknown."""

import pytest

from fusetune.evaluate.cost import Cost, cost_ratio, total_cost

SMALL = Cost(fit_s=10.0, predict_s_per_row=0.002, parameters=1000)
LARGE = Cost(fit_s=30.5, predict_s_per_row=0.006, parameters=5000)
FUSION = Cost(fit_s=0.5, predict_s_per_row=0.0001)


def test_a_fusion_costs_its_members_and_itself() -> None:
    found = total_cost([SMALL, LARGE], FUSION)
    assert found.fit_s == pytest.approx(41.0)
    assert found.predict_s_per_row == pytest.approx(0.0081)
    assert found.parameters == 6000
    assert cost_ratio(found, LARGE) == pytest.approx(1.35)


def test_a_member_alone_costs_what_it_costs() -> None:
    assert total_cost([SMALL]) == SMALL
    assert cost_ratio(SMALL, SMALL) == 1.0


def test_what_one_part_does_not_know_is_unknown_in_the_sum() -> None:
    from_file = Cost(parameters=7)
    found = total_cost([SMALL, from_file], FUSION)
    assert found == Cost(parameters=1007)
    assert cost_ratio(found, SMALL) is None
    assert cost_ratio(SMALL, from_file) is None


def test_no_time_at_all_has_no_ratio() -> None:
    assert cost_ratio(SMALL, Cost(predict_s_per_row=0.0)) is None


def test_no_member_costs_nothing() -> None:
    assert total_cost([]) == Cost(fit_s=0.0, predict_s_per_row=0.0, parameters=0)
