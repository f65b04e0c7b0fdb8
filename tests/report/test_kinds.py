# SPDX-License-Identifier: Apache-2.0
"""Reports of numbers, quantiles and label sets, and of rows that are no test rows."""

import json
import re

import numpy as np
import pytest

from fusetune.evaluate.diagnosis import diversity_results
from fusetune.metric import Metric
from fusetune.plugins import discover, find
from fusetune.predictions.files import write_columnar, write_targets
from fusetune.predictions.kinds import Marginals, Values
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import LabelSets, Numbers
from fusetune.report.contents import gather
from fusetune.report.html import render
from fusetune.report.section import Section
from fusetune.report.sections import residuals

IDS = np.array([f"row{n}" for n in range(200)])
RANDOM = np.random.default_rng(0)


def folder_of(folder, task, metric, parts, targets, **results):
    """A run folder whose chosen fusion `auto` is the last of the parts."""
    names = [*list(parts)[:-1], "ensemble"]
    for name, part in zip(names, parts.values(), strict=True):
        write_columnar(folder / "predictions" / name / "test.parquet", part)
    write_targets(folder / "targets" / "test.parquet", targets)
    judge = find(Metric, metric)()
    scored = {
        name: {"test": {metric: judge.value(judge.statistics(part, targets))}}
        for name, part in parts.items()
    }
    members = {name: part for name, part in parts.items() if name != "auto"}
    found = {
        "task": task,
        "metric": metric,
        "rows": {"test": len(targets)},
        "members": [{"name": name, "scores": scored[name]} for name in members],
        "fusions": [{"name": "auto", "scores": scored["auto"]}],
        "chosen": "auto",
        "best_member": next(iter(members)),
        **diversity_results(Stack.align(members), targets),
        **results,
    }
    (folder / "results.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


def numbers_run(folder, names=("price",), **results):
    truth_ND = RANDOM.normal(50, 10, size=(len(IDS), len(names)))
    parts = {
        name: Values(IDS, names, truth_ND + RANDOM.normal(0, spread, size=truth_ND.shape))
        for name, spread in (("ridge", 5.0), ("forest", 8.0), ("auto", 4.0))
    }
    return folder_of(folder, "regression", "rmse", parts, Numbers(IDS, names, truth_ND), **results)


def quantiles_run(folder, levels=(0.1, 0.5, 0.9)):
    truth_N = RANDOM.normal(size=len(IDS))
    names = tuple(f"q{level:g}" for level in levels)
    steps = np.arange(len(levels), dtype=float) - 1
    parts = {
        name: Values(IDS, names, truth_N[:, None] * 0.5 + steps + shift, levels)
        for name, shift in (("one", 0.2), ("two", -0.1), ("auto", 0.0))
    }
    targets = Numbers(IDS, ("y",), truth_N[:, None])
    return folder_of(folder, "regression", "pinball", parts, targets)


def labels_run(folder, classes=("news", "sport", "arts")):
    present_NC = RANDOM.random((len(IDS), len(classes))) < 0.3
    present_NC[:, -1] = False
    parts = {}
    for name, noise in (("forest", 0.7), ("knn", 0.9), ("auto", 0.5)):
        probs_NC = 0.5 + (present_NC - 0.5) * 0.9 - noise * (RANDOM.random(present_NC.shape) - 0.5)
        known = classes[:-1] if name == "knn" else classes
        parts[name] = Marginals(IDS, known, probs_NC.clip(0, 1)[:, : len(known)])
    targets = LabelSets(IDS, classes, present_NC)
    return folder_of(folder, "multilabel", "multilabel_log_loss", parts, targets)


def section(name, folder):
    return discover(Section)[name]().content(gather(folder))


def text_of(folder):
    html = render(gather(folder))
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))


def test_quantiles_of_errors_are_those_of_the_predictions(tmp_path):
    folder = numbers_run(tmp_path)
    contents = gather(folder)
    assert contents.test is None and contents.labels is None
    rows, found = contents.numbers, section("residuals", folder)
    errors_N = rows.chosen.values_ND[:, 0] - rows.targets.values_ND[:, 0]
    chosen = found["spreads"][0]["rows"][-1]
    assert chosen["name"] == "auto"
    wanted = [
        f"{value:+.1f}".replace("-", "−") for value in np.quantile(errors_N, residuals.QUANTILES)
    ]
    assert [cell.lstrip("+") for cell in chosen["cells"]] == [cell.lstrip("+") for cell in wanted]
    assert [row["name"] for row in found["spreads"][0]["rows"]] == ["ridge", "forest", "auto"]
    assert found["levels"] is None


def test_points_are_predicted_over_true(tmp_path):
    folder = numbers_run(tmp_path)
    rows = gather(folder).numbers
    panel = section("residuals", folder)["panels"][0]
    order = np.argsort(rows.targets.values_ND[:, 0])
    x, up = np.array(panel["points"]).T
    assert len(x) == 200
    assert np.corrcoef(x, rows.targets.values_ND[order, 0])[0, 1] > 0.99999
    assert np.corrcoef(100 - up, rows.chosen.values_ND[order, 0])[0, 1] > 0.99999
    above = rows.chosen.values_ND[order, 0] > rows.targets.values_ND[order, 0]
    assert (above == (100 - up > x))[np.abs(100 - up - x) > 0.1].all()  # one scale for both


def test_many_rows_are_drawn_by_some_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(residuals, "MOST_POINTS", 50)
    folder = numbers_run(tmp_path)
    assert len(section("residuals", folder)["panels"][0]["points"]) == 50
    assert "for 50 of 200 test rows" in text_of(folder)


def test_several_numbers_have_a_plot_and_a_table_each(tmp_path):
    folder = numbers_run(tmp_path, names=tuple(f"number {n}" for n in range(8)))
    found = section("residuals", folder)
    assert [panel["name"] for panel in found["panels"]] == [f"number {n}" for n in range(6)]
    assert len(found["spreads"]) == 6
    assert "2 more numbers are not drawn" in text_of(folder)


def test_constant_and_perfect_numbers_are_drawn(tmp_path):
    truth_ND = np.full((len(IDS), 1), 3.0)
    parts = {name: Values(IDS, ("y",), truth_ND) for name in ("one", "two", "auto")}
    folder = folder_of(tmp_path, "regression", "mae", parts, Numbers(IDS, ("y",), truth_ND))
    found = section("residuals", folder)
    assert found["spreads"][0]["rows"][0]["cells"] == ["0"] * 5
    assert "nan" not in re.sub(r"[a-z]*nan[a-z]+", "", text_of(folder).lower())


def test_shares_below_quantiles_are_counted(tmp_path):
    folder = quantiles_run(tmp_path)
    rows, found = gather(folder).numbers, section("residuals", folder)
    below = (rows.targets.values_ND <= rows.chosen.values_ND).mean(axis=0)
    assert found["levels"]["names"] == ["10", "50", "90"]
    assert found["levels"]["rows"][-1] == ("auto", [f"{100 * share:.1f}" for share in below])
    assert len(found["panels"]) == 1  # of the medians


def test_quantiles_without_a_median_are_still_counted(tmp_path):
    found = section("residuals", quantiles_run(tmp_path, levels=(0.7, 0.9)))
    assert found["panels"] == []
    assert found["levels"]["names"] == ["70", "90"]


def test_every_label_has_its_f1_and_log_loss(tmp_path):
    from sklearn.metrics import f1_score, log_loss

    folder = labels_run(tmp_path)
    rows, found = gather(folder).labels, section("per_label", folder)
    by_name = {row["name"]: row for row in found["rows"]}
    for column, name in enumerate(rows.targets.classes[:-1]):
        truth, said = rows.targets.present_NC[:, column], rows.chosen.probs_NC[:, column]
        assert by_name[name]["f1"][-1] == f"{100 * f1_score(truth, said > 0.5):.1f}"
        wanted = log_loss(truth, np.clip(said, 1.2e-7, 1 - 1.2e-7).astype(float))
        assert float(by_name[name]["losses"][-1]) == pytest.approx(wanted, abs=1e-4)
    scores = [float(row["f1"][-1]) for row in found["rows"] if row["f1"][-1] != "–"]
    assert scores == sorted(scores)
    assert found["names"] == ["forest", "auto"]


def test_a_label_that_nobody_says_and_no_row_has_is_a_dash(tmp_path):
    classes = ("news", "never")
    present_NC = np.stack([np.arange(len(IDS)) % 2 == 0, np.zeros(len(IDS), bool)], axis=1)
    part = Marginals(IDS, classes, np.where(present_NC, 0.9, 0.1))
    targets = LabelSets(IDS, classes, present_NC)
    parts = dict.fromkeys(("one", "two", "auto"), part)
    folder = folder_of(tmp_path, "multilabel", "multilabel_log_loss", parts, targets)
    rows = section("per_label", folder)["rows"]
    assert [(row["name"], row["f1"]) for row in rows] == [
        ("news", ["100.0", "100.0"]),
        ("never", ["–", "–"]),
    ]


def test_labels_that_a_member_does_not_know_are_not_there(tmp_path):
    folder = labels_run(tmp_path)
    path = folder / "results.json"
    path.write_text(path.read_text().replace('"best_member": "forest"', '"best_member": "knn"'))
    row = next(row for row in section("per_label", folder)["rows"] if row["name"] == "arts")
    assert row["present"] == 0
    assert float(row["losses"][0]) < 1e-4


@pytest.mark.parametrize("make", [numbers_run, quantiles_run, labels_run])
def test_sections_for_classes_are_left_out_and_diversity_stays(tmp_path, make):
    html = render(gather(make(tmp_path)))
    shown = set(re.findall(r'<section id="(\w+)"', html))
    assert not shown & {"confusion", "reliability", "disputed"}
    assert "diversity" in shown
    assert len(shown & {"residuals", "per_label"}) == 1


def test_errors_of_numbers_are_correlated_not_agreed_on(tmp_path):
    text = text_of(numbers_run(tmp_path))
    assert "Correlation of the errors that two members make" in text
    assert "Oracle" not in text


@pytest.mark.parametrize(
    ("judged", "said", "footer"),
    [
        ("test", "Scores on 200 test rows,", "test rows that fitted nothing"),
        ("cross_fitted", "rows, each by fusions that were not fitted on it", "did not fit what"),
        ("in_sample", "rows that also fitted the fusions", "which flatters them"),
    ],
)
def test_rows_are_called_what_they_are(tmp_path, judged, said, footer):
    text = text_of(numbers_run(tmp_path, judged=judged))
    assert said in text
    assert footer in text.rpartition("Made by fusetune")[2]
    assert ("test rows" in text) == (judged == "test")
    assert ("best on holdout" in text) == (judged == "test")
