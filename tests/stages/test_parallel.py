# SPDX-License-Identifier: Apache-2.0
"""Members side by side: how many, with how many threads, and the same bytes as one after another."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from fusetune.entries import MemberEntry
from fusetune.errors import RecipeError
from fusetune.recipe import Recipe, load_recipe
from fusetune.runtime import machine
from fusetune.runtime.runner import Call, Runner
from fusetune.stages import parallel
from fusetune.stages.members import Context, Outcome
from fusetune.stages.parallel import WORKER_BYTES, all_members, how_many, threads_each
from fusetune.stages.time_limit import TimeLimit
from fusetune.values import read_yaml
from support import SHORT, fusetune

GIB = 2**30


def recipe(given: object) -> Recipe:
    members = [f"mini:{net}" for net in ("resnet", "vgg", "inception")]
    return load_recipe(
        {
            "task": "image_classification",
            "data": {"source": "digits"},
            "members": members,
            "parallel": given,
        }
    )


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "num_cores", lambda: 8)
    monkeypatch.setattr(machine, "num_cores", lambda: 8)
    monkeypatch.setattr(parallel, "available_bytes", lambda: 100 * GIB)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize("given", [0, -1, True, 1.5, "all"])
def test_other_numbers_are_refused(given: object) -> None:
    with pytest.raises(RecipeError, match=r"parallel is .*above 0, or auto"):
        recipe(given)


@pytest.mark.usefixtures("eight_cores")
def test_a_number_is_kept_and_shares_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [how_many(recipe(n), {"a": None}) for n in (1, 2, 3)] == [1, 2, 3]
    assert [threads_each(recipe(n)) for n in (1, 2, 3, 9)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [threads_each(recipe(n)) for n in (1, 2, 3)] == [3, 3, 2]


@pytest.mark.usefixtures("eight_cores")
def test_auto_is_bounded_by_members_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = recipe("auto")
    needs: Mapping[str, int | None] = {"a": GIB, "b": GIB, "c": 10 * GIB}
    assert how_many(auto, needs) == 3
    assert threads_each(auto) == 2
    monkeypatch.setattr(parallel, "num_cores", lambda: 2)
    assert how_many(auto, needs) == 2
    monkeypatch.setattr(parallel, "num_cores", lambda: 8)
    two = (11 * GIB + 2 * WORKER_BYTES) / parallel.MEMORY_SHARE
    monkeypatch.setattr(parallel, "available_bytes", lambda: int(two) + 1)
    assert how_many(auto, needs) == 2
    monkeypatch.setattr(parallel, "available_bytes", lambda: int(two) - 1)
    assert how_many(auto, needs) == 1
    monkeypatch.setattr(parallel, "available_bytes", lambda: None)
    assert how_many(auto, needs) == 3


@pytest.mark.usefixtures("eight_cores")
def test_a_gpu_is_left_to_one_and_nothing_left_to_do_needs_one() -> None:
    assert how_many(recipe("auto"), {"a": None, "b": None}) == 1
    assert how_many(recipe("auto"), {}) == 1


def test_a_container_limits_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 900 kB\nMemAvailable:     500 kB\n")
    monkeypatch.setattr(machine, "MEMINFO", meminfo)
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.available_bytes() == 512_000
    (tmp_path / "memory.max").write_text("300000\n")
    (tmp_path / "memory.current").write_text("100000\n")
    assert machine.available_bytes() == 200_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_bytes() == 512_000
    meminfo.unlink()
    assert machine.available_bytes() is None


def test_members_side_by_side_share_what_is_left_of_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 1000.0)
    limit = TimeLimit(100)
    limit.keep(None)  # a tenth
    for member in "abc":
        with limit.loading(member):
            pass
    first, second = (limit.budget(member, 5, side_by_side=2) for member in "ab")
    assert first is not None
    assert second is not None
    assert first.ends_at == 1000 + 90 / 1.5  # three members in turns of two
    assert second.ends_at == 1000 + 90


def predictions(run: Path) -> dict[str, bytes]:
    paths = run.glob("predictions/*/*.parquet")
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in paths}


MEMBERS = """members:
  - {name: a, source: mini, model: resnet, finetune: {epochs: 2}}
  - {name: b, source: mini, model: resnet, finetune: {label_smoothing: 0}}
  - {name: soup, soup: uniform_soup, of: [a, b]}
  - {name: other, source: mini, model: vgg, finetune: {epochs: 1}}
metric: accuracy
"""


class Idle(Runner):
    """A runner whose calls do nothing."""

    def call(self, call: Call, on_event: object) -> None: ...

    def another(self) -> Self:
        return type(self)()

    def close(self) -> None: ...


def test_as_many_as_asked_for_are_made_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = threading.Barrier(3, timeout=20)

    def member_stage(context: Context, entry: MemberEntry, *_: object) -> Outcome:
        meeting.wait()  # breaks unless three are here at once
        return Outcome(entry)

    monkeypatch.setattr(parallel, "_member", member_stage)
    asked: Any = recipe(3)
    context = Context(asked, Any, Any, Idle(), lambda event: None, side_by_side=3)  # type: ignore[arg-type]
    made = all_members(context, Any)  # type: ignore[arg-type]
    assert list(made) == [entry.name for entry in asked.members]


@pytest.mark.slow
def test_side_by_side_gives_the_same_bytes_and_a_soup_waits(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(SHORT[: SHORT.index("members:")] + MEMBERS)
    one = fusetune("run", path, "--out", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    path.write_text(path.read_text() + "parallel: 3\n")
    three = fusetune("run", path, "--out", tmp_path / "three")
    assert three.returncode == 0, three.stderr
    assert predictions(tmp_path / "three") == predictions(tmp_path / "one")
    log = (tmp_path / "three" / "log.jsonl").read_text()
    events = [json.loads(line) for line in log.splitlines()]
    order = [e["member"] for e in events if e["phase"] == "finished"]
    assert order.index("soup") > max(order.index("a"), order.index("b"))
    named = json.loads((tmp_path / "three" / "results.json").read_text())["members"]
    assert [member["name"] for member in named] == ["a", "b", "soup", "other"]
    assert read_yaml(tmp_path / "three" / "recipe.yaml")["parallel"] == 3


HEADS = """members:
  - {source: mini, model: vgg, name: a, finetune: {train: probe}}
  - {source: mini, model: vgg, name: b, finetune: {train: probe, label_smoothing: 0.1}}
"""


@pytest.mark.slow
def test_features_of_two_at_a_time_are_computed_once(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(SHORT[: SHORT.index("members:")] + HEADS)
    assert fusetune("run", path, "--out", tmp_path / "one").returncode == 0
    path.write_text(path.read_text() + "parallel: 2\n")
    two = fusetune("run", path, "--out", tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert predictions(tmp_path / "two") == predictions(tmp_path / "one")
    log = (tmp_path / "two" / "log.jsonl").read_text()
    events = [json.loads(line) for line in log.splitlines()]
    begun = [e["step"] for e in events if e["phase"] == "begun" and "features" in e["step"]]
    assert len(begun) == len(set(begun)) == 2


@pytest.mark.slow
def test_one_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    import fusetune as package

    path = tmp_path / "recipe.yaml"
    path.write_text(SHORT)
    diverging = {"optimizer": {"name": "sgd", "lr": 1e20}, "clip_norm": None}
    members = ["mini:resnet", {"source": "mini", "model": "vgg", "finetune": diverging}]
    content = {**read_yaml(path), "members": members, "parallel": "auto"}
    run = package.run(content, tmp_path / "run")
    status = {member["name"]: member["status"] for member in run.results["members"]}
    assert status == {"mini-resnet": "ok", "mini-vgg": "failed"}
