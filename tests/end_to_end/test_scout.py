# SPDX-License-Identifier: Apache-2.0
"""Candidates are looked at, scored, and some of them proposed; then fine-tuned."""

import json
from pathlib import Path

import pytest
import yaml

from support import SHORT, fusetune

pytestmark = pytest.mark.slow

CANDIDATES = ["mini:*", {"source": "mini", "model": "*", "weights": "none"}]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    content = yaml.safe_load(SHORT)
    content["members"] = "scout"
    content["scout"] = {"candidates": CANDIDATES, "most": 2}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_candidates_are_scored_and_some_proposed(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "scout"
    done = fusetune("scout", recipe, "--out", out)
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "scout.json").read_text())
    lines = {line["name"]: line for line in found["candidates"]}
    assert len(lines) == 6
    pretrained, scratch = ([n for n in lines if n.endswith("-2") == new] for new in (False, True))
    for name in pretrained:
        assert None not in lines[name]["scores"].values()
        assert lines[name]["parameters"] > 1000
    assert all(lines[name]["scores"]["leep"] is None for name in scratch)
    best = max(lines, key=lambda name: lines[name]["scores"]["log_me"])
    assert best in pretrained
    assert 1 <= len(found["proposed"]) <= 2
    proposed = yaml.safe_load((out / "recipe.yaml").read_text())
    assert [member["name"] for member in proposed["members"]] == list(found["proposed"])
    for name in lines:
        assert name in done.stdout
    assert f"fusetune run {out}/recipe.yaml --out {out}" in done.stdout

    again = fusetune("scout", recipe, "--out", out, "--json")
    assert json.loads(again.stdout) == found  # nothing was looked at again: seconds are the same


def test_a_run_chooses_its_members_by_scouting(recipe: Path, tmp_path: Path) -> None:
    before = fusetune("run", recipe, "--out", tmp_path / "run", "--dry-run")
    assert [line.split()[-1] for line in before.stdout.splitlines()][-2:] == [
        "view-mini-vgg-2",
        "scout",
    ]
    assert not (tmp_path / "run").exists()
    done = fusetune("run", recipe, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    after = fusetune("run", recipe, "--out", tmp_path / "run", "--dry-run")
    assert {line.split()[0] for line in after.stdout.splitlines()} == {"done"}
    assert after.stdout.splitlines()[-1].endswith("ensemble")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    proposed = json.loads((tmp_path / "run" / "scout.json").read_text())["proposed"]
    assert [member["name"] for member in results["members"]] == list(proposed)
    assert [member["status"] for member in results["members"]] == ["ok"] * len(proposed)


def test_a_candidate_that_cannot_be_loaded_is_named_and_the_others_go_on(
    recipe: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load(recipe.read_text())
    content["scout"]["candidates"] = ["mini:vgg", "mini:lenet"]
    recipe.write_text(yaml.safe_dump(content))
    done = fusetune("scout", recipe, "--out", tmp_path / "scout")
    assert done.returncode == 0, done.stderr
    assert "mini-lenet failed: no model of source mini is called 'lenet'" in done.stdout
    assert "Proposed: mini-vgg" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": ["mini:x*"]}, "matches 'x*'"),
        ({"candidates": []}, "scout.candidates is []"),
        ({"most": 2}, "scout has no `candidates:`"),
        ({"candidates": ["mini:*"], "most": 0}, "scout.most is 0"),
        ({"candidates": ["mini:*"], "best": 1}, "best"),
    ],
)
def test_bad_candidates_are_refused_before_any_work(
    recipe: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    content = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**content, "scout": change}))
    done = fusetune("scout", recipe, "--out", tmp_path / "scout")
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert not (tmp_path / "scout").exists()
