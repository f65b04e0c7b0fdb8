# SPDX-License-Identifier: Apache-2.0
"""Who gets how much of a limited time; what a member that was stopped leaves, and how it goes on."""

import json
import time
from pathlib import Path

import pytest

import fusetune as package
from fusetune.errors import InvalidValue
from fusetune.finetune.engine import Budget
from fusetune.finetune.stopping import Stopwatch
from fusetune.stages.time_limit import TimeLimit, fusing_seconds, seconds_of
from support import SHORT, fusetune


@pytest.mark.parametrize("limit", ["", "0s", "-5m", "10 minutes", "5d", "m", 0, -1.5, "3m2"])
def test_what_is_no_time_is_refused(limit: str | float) -> None:
    with pytest.raises(InvalidValue, match=r"the time limit is .*90s, 30m, 2h or 1h30m"):
        seconds_of(limit)


class Clock:
    """Time that passes when told so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def loaded(limit: TimeLimit, clock: Clock, *members: str, seconds: float = 1.0) -> None:
    for member in members:
        with limit.loading(member):
            clock.now += seconds


def test_members_get_equal_shares_and_what_one_leaves_the_others_get(clock: Clock) -> None:
    limit = TimeLimit(100)
    limit.keep(None)  # a tenth: 10 s
    loaded(limit, clock, "a", "b", "c")  # 87 s are left
    assert limit.budget("a", rows=5) == Budget(1003 + 29 - 1, 5)
    clock.now += 7
    assert limit.budget("b", rows=5) == Budget(1010 + 40 - 1, 5)
    clock.now += 40
    assert limit.budget("none-to-tune", rows=5) == Budget(1050 + 40, 5)
    assert limit.budget("c", rows=5) == Budget(1050 + 40 - 1, 5)


def test_the_folds_of_a_member_have_shares_and_take_turns(clock: Clock) -> None:
    limit = TimeLimit(102)
    limit.keep(4.0)  # 6 s are kept
    with limit.loading("a-fold1", "a-fold2", "a-fold3"):
        clock.now += 3
    loaded(limit, clock, "b", seconds=1)  # 92 s are left
    assert limit.budget("a-fold1", rows=5) == Budget(1004 + 23 - 3, 5)
    clock.now += 2
    # Two workers have three turns, of which two are the folds', one after the other: 90 s / 2.
    assert limit.budget("a-fold2", rows=5, side_by_side=2) == Budget(1006 + 45 - 3, 5)
    limit.give_up(["a-fold1", "a-fold2", "a-fold3"])
    assert limit.budget("b", rows=5) == Budget(1006 + 90 - 1, 5)
    loaded(limit, clock, "c", seconds=0)
    with limit.loading("d-fold1", "d-fold2", "d-fold3"):
        pass
    # Not 45 s, though four turns have two workers: its own three come one after another.
    assert limit.budget("d-fold1", rows=5, side_by_side=2) == Budget(1006 + 30, 5)


def test_a_share_suffices_to_begin_or_the_member_is_not_run(clock: Clock) -> None:
    limit = TimeLimit(33)
    limit.keep(4.0)  # measured: 6 s are kept
    loaded(limit, clock, "a", "b", "c", seconds=4)  # 15 s are left: 5 each would be for nothing
    assert limit.budget("a", rows=5) is None  # four times 4 s are more than there are
    limit = TimeLimit(34)
    limit.keep(4.0)
    loaded(limit, clock, "a", "b", "c", seconds=4)
    assert limit.budget("a", rows=5) == Budget(clock.now + 16 - 4, 5)
    clock.now += 16
    assert limit.budget("b", rows=5) is None
    assert limit.budget("none-to-tune", rows=5) is None


def test_a_stopwatch_leaves_time_to_validate_and_predict(clock: Clock) -> None:
    watch = Stopwatch(Budget(ends_at=1020, rows=90), validation_rows=10)
    # A trained row takes 0.2 s, a predicted one at most half of that: 12 s with a margin.
    assert not watch.is_over(0, 1, rows=10, seconds=2.0)
    clock.now += 8.5
    assert watch.is_over(0, 2, rows=20, seconds=4.0)
    assert watch.stopped == (0, 2)
    assert "in epoch 1 of 3; the weights of epoch 1" in watch.notes(3, best_epoch=1)[0]
    unlimited = Stopwatch(None, validation_rows=10)
    assert not unlimited.is_over(0, 2, rows=20, seconds=4.0)
    assert unlimited.notes(3, best_epoch=1) == ()


def test_the_time_for_fusing_is_the_longest_that_a_log_tells_of(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert fusing_seconds(log) is None
    events = [("data", 0), ("fuse", 10), ("report", 13), ("done", 14), ("fuse", 20), ("done", 21)]
    lines = [json.dumps({"phase": phase, "time": at}) for phase, at in events]
    log.write_text("\n".join([*lines, '{"phase": "fuse", "ti']))
    assert fusing_seconds(log) == 4


@pytest.mark.slow
def test_stopped_members_are_fused_and_a_run_without_a_limit_finishes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One member is stopped at once, one is not run, one has its time."""
    budgets = {"mini-resnet": Budget(0.0, 1), "mini-inception": Budget(time.monotonic() + 1e6, 1)}
    monkeypatch.setattr(TimeLimit, "budget", lambda self, member, *_: budgets.get(member))
    recipe, out = tmp_path / "short.yaml", tmp_path / "run"
    recipe.write_text(SHORT.replace("epochs: 3", "epochs: 4"))
    found = package.run(recipe, out, time_limit="1h").results
    members = {member["name"]: member for member in found["members"]}
    assert {name: member["status"] for name, member in members.items()} == {
        "mini-resnet": "ok",
        "mini-vgg": "not_run",
        "mini-inception": "ok",
    }
    note = "the time limit stopped fine-tuning in epoch 1 of 4; the weights of epoch 1 were kept"
    assert any(note in said for said in members["mini-resnet"]["notes"])
    assert not any("time limit" in said for said in members["mini-inception"]["notes"])
    assert members["mini-vgg"]["error"] == "the time limit left no time for it"
    report = (out / "report.html").read_text()
    assert "not run" in report
    assert "left no time for it" in report
    plan = {step.step: (step.state, step.why) for step in package.plan(recipe, out)}
    assert plan["finetune-mini-resnet"] == ("todo", "goes on from its checkpoint")
    assert plan["finetune-mini-vgg"] == ("todo", "")
    assert plan["finetune-mini-inception"] == ("done", "")

    done = fusetune("run", recipe, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done before") == 2
    whole = fusetune("run", recipe, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    files = sorted(out.glob("predictions/*/*.parquet"))
    assert len(files) == 3 * 3 + 1
    for path in files:
        assert path.read_bytes() == (tmp_path / "whole" / path.relative_to(out)).read_bytes()


def test_validating_without_a_backbone_says_nothing_of_predicting_with_it(clock: Clock) -> None:
    watch = Stopwatch(Budget(ends_at=1100.0, rows=90), validation_rows=10)
    watch._predict_s_per_row = 0.001  # a head on features: 100 rows take no time
    assert not watch.is_over(epoch=1, step=1, rows=10, seconds=20.0)
    watch.forget_validating()
    assert watch.is_over(epoch=1, step=1, rows=10, seconds=20.0)  # a second a row
