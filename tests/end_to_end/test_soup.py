# SPDX-License-Identifier: Apache-2.0
"""A soup in a whole run: made, fused, reported, resumed, saved, and loaded like any other member."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import SHORT, fusetune

pytestmark = pytest.mark.slow

RECIPE = (
    SHORT[: SHORT.index("members:")]
    + """members:
  - {name: a, source: mini, model: resnet}
  - {name: b, source: mini, model: resnet, finetune: {label_smoothing: 0}}
  - {name: other, source: mini, model: vgg, finetune: {epochs: 1}}
  - {name: soup, soup: greedy_soup, of: [a, b]}
  - {name: back, soup: wise_ft, of: [a], coefficients: [0.5, 0.9]}
metric: accuracy
"""
)


def results(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "results.json").read_text()))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "soup.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "soup"
    done = fusetune("run", recipe, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_a_soup_is_reported_like_any_other_member(finished: Path) -> None:
    found = results(finished)
    members = {entry["name"]: entry for entry in found["members"]}
    assert list(members) == ["a", "b", "other", "soup", "back"]
    soup = members["soup"]
    assert (soup["status"], soup["source"]) == ("ok", "soup:greedy_soup")
    assert set(soup["scores"]) == set(members["a"]["scores"])
    assert soup["seconds"]["finetune"] > members["a"]["seconds"]["finetune"]
    assert soup["parameters"] == members["a"]["parameters"]
    record = soup["soup"]
    assert record["of"] == ["a", "b"]
    assert record["shared_start"] is True
    for name in ("a", "b"):
        score = members[name]["scores"]["holdout"]["accuracy"]
        assert record["members"][name]["score"] == pytest.approx(score)
    best = max(members[name]["scores"]["holdout"]["accuracy"] for name in ("a", "b"))
    assert soup["scores"]["holdout"]["accuracy"] >= best
    if not record["fell_back"]:
        assert soup["scores"]["holdout"]["accuracy"] == pytest.approx(record["score"])
    assert "soup" not in members["a"]
    assert "soup" in found["agreement"]["members"]
    page = (finished / "report.html").read_text()
    assert "greedy_soup of a, b" in page
    assert "soup:wise_ft" in page
    trials = [
        event
        for line in (finished / "log.jsonl").read_text().splitlines()
        if (event := json.loads(line))["phase"] == "soup" and event["member"] == "soup"
    ]
    assert len(trials) == record["tried"]


def test_running_again_changes_no_byte_and_a_changed_soup_redoes_itself_only(
    finished: Path, recipe: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / finished.name))

    def content() -> dict[Path, bytes]:
        files = [p for p in run.rglob("*") if p.is_file()]
        return {p: p.read_bytes() for p in files if p.name not in ("log.jsonl", ".lock")}

    before = content()
    done = fusetune("run", recipe, "--out", run)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done before") == 10
    assert content() == before
    changed = tmp_path / "changed.yaml"
    changed.write_text(RECIPE.replace("greedy_soup", "uniform_soup"))
    done = fusetune("run", changed, "--out", run)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done before") >= 8
    assert "soup-soup: done before" not in done.stderr
    assert "soup-soup: made again: soup.method" in done.stderr
    assert "epoch" not in done.stderr
    assert results(run)["members"][3]["source"] == "soup:uniform_soup"


def test_the_same_recipe_makes_the_same_bytes_from_its_resolved_form(
    finished: Path, tmp_path: Path
) -> None:
    done = fusetune("run", finished / "recipe.yaml", "--out", tmp_path / "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for path in sorted(finished.glob("predictions/*/*.parquet")):
        assert path.read_bytes() == (tmp_path / "run" / path.relative_to(finished)).read_bytes()


def test_a_loaded_soup_predicts_what_it_predicted(finished: Path) -> None:
    import pyarrow.parquet as pq

    import fusetune as package
    from fusetune.data.datasets.digits import Digits

    rows = Digits(noise=0.2).read()
    expected = pq.read_table(finished / "predictions" / "soup" / "test.parquet").to_pydict()
    position = {name: row for row, name in enumerate(rows.ids.tolist())}
    ids = expected.pop("id")[:20]
    pixels = np.stack([rows.images.pixels(position[name]) for name in ids])
    stack = package.load(finished).predict_members(pixels, ["soup"])
    probs = np.array(list(expected.values())).T[:20]
    assert np.allclose(stack["soup"].probs_NC, probs, atol=1e-5)


def test_a_soup_of_a_member_that_failed_is_one_failed_member(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    diverging = "{name: b, source: mini, model: resnet, finetune: {clip_norm: null, optimizer: {name: sgd, lr: 1e30}}}"
    text = SHORT[: SHORT.index("members:")].replace("epochs: 3", "epochs: 1")
    text += f"members:\n  - {{name: a, source: mini, model: resnet}}\n  - {diverging}\n"
    recipe.write_text(text + "  - {name: soup, soup: uniform_soup, of: [a, b]}\n")
    done = fusetune("run", recipe, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    statuses = {m["name"]: (m["status"], m["error"]) for m in results(tmp_path / "run")["members"]}
    assert statuses["a"] == ("ok", None)
    assert statuses["b"][0] == statuses["soup"][0] == "failed"
    assert "'b' of its members failed" in statuses["soup"][1]


def test_the_list_names_every_soup() -> None:
    done = fusetune("list", "soups")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith("greedy_soup")
    assert len(done.stdout.splitlines()) == 7
