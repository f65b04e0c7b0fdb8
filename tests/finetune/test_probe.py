# SPDX-License-Identifier: Apache-2.0
"""A head that is solved for: against scikit-learn, and then as the start of fine-tuning."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

import small_runs
from fusetune.errors import InvalidValue
from fusetune.finetune.engine import Plan, Split
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.features import check_linear_head
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.objectives.multilabel import Multilabel
from fusetune.finetune.objectives.regression import Regression
from fusetune.finetune.pytorch.probe import PENALTIES, solve_head
from fusetune.finetune.settings import Distill, FineTune
from fusetune.predictions.label_sets import LabelSets
from fusetune.predictions.targets import Numbers, Targets
from small_runs import CLASSES, SETTINGS, SPLITS, assert_resumes, finetune, member, weights

PROBE = replace(SETTINGS, train="probe")
FIRST = replace(SETTINGS, train="probe_then_full", epochs=3)
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(80, 8)).astype(np.float32) * 3 + 5
NOISY = FEATURES[:, 0] - FEATURES[:, 1] + RNG.normal(size=80) * 4 > 0
PENALTY = 0.01


def features_of(split: Any) -> np.ndarray:
    return Torch().features(member(), split.images, lambda event: None)[0]


def solved(objective: Any, targets: Any, settings: FineTune = PROBE, model: Any = None) -> Any:
    """A head for 60 rows of `FEATURES`, judged on 20; the layer."""
    made = member() if model is None else model
    truths = (targets.take(np.arange(60)), targets.take(np.arange(60, 80)))
    splits = tuple(Split(SPLITS[0].images, truth) for truth in truths)
    probe = solve_head(
        made, Plan(objective, settings, seed=0), splits, (FEATURES[:60], FEATURES[60:])
    )
    return probe, made.model.fc


@pytest.fixture
def one_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to choose."""
    monkeypatch.setattr("fusetune.finetune.pytorch.probe.PENALTIES", (PENALTY,))


IDS = np.array([f"r{i}" for i in range(80)])
TARGETS = Targets(IDS, CLASSES, NOISY.astype(np.int64))


def scale() -> float:
    """What the penalty is relative to."""
    return float((FEATURES[:60] - FEATURES[:60].mean(axis=0)).std())


@pytest.mark.usefixtures("one_penalty")
@pytest.mark.parametrize("balanced", [False, True])
def test_classes_are_scikit_learns_logistic_regression(balanced: bool) -> None:
    settings = replace(PROBE, class_weights="balanced") if balanced else PROBE
    _, layer = solved(Classification(), TARGETS, settings)
    reference = LogisticRegression(  # two weight vectors w and -w: half the penalty of one
        C=2 / (PENALTY * 60 * scale() ** 2),
        tol=1e-10,
        max_iter=10_000,
        class_weight="balanced" if balanced else None,
    ).fit(FEATURES[:60], NOISY[:60])
    weight = (layer.weight[1] - layer.weight[0]).detach().numpy()
    np.testing.assert_allclose(weight, reference.coef_[0], rtol=2e-3, atol=2e-4)
    bias = float((layer.bias[1] - layer.bias[0]).detach())
    assert bias == pytest.approx(float(reference.intercept_[0]), rel=2e-3, abs=1e-3)


@pytest.mark.usefixtures("one_penalty")
def test_labels_are_a_logistic_regression_each() -> None:
    present = np.stack([NOISY, FEATURES[:, 2] > 5.5], axis=1)
    _, layer = solved(Multilabel(), LabelSets(IDS, CLASSES, present))
    for label in range(2):
        # The loss is the mean over labels, so that each has half of it.
        reference = LogisticRegression(
            C=1 / (2 * PENALTY * 60 * scale() ** 2), tol=1e-10, max_iter=10_000
        ).fit(FEATURES[:60], present[:60, label])
        found = layer.weight[label].detach().numpy()
        np.testing.assert_allclose(found, reference.coef_[0], rtol=5e-3, atol=5e-4)


@pytest.mark.usefixtures("one_penalty")
def test_numbers_are_ridge_regression() -> None:
    values = np.stack([FEATURES[:, 0] * 2, FEATURES[:, 3] + RNG.normal(size=80)], axis=1)
    targets = Numbers(IDS, CLASSES, values)
    objective = Regression().fitted(targets.take(np.arange(60)))
    _, layer = solved(objective, targets)
    standard = objective.collate(targets, np.arange(60))
    outputs = layer(torch.from_numpy(FEATURES[60:])).detach().numpy()
    # The loss is the mean over two numbers, and Ridge's has no half before the penalty.
    reference = Ridge(alpha=PENALTY * 60 * scale() ** 2, tol=1e-12).fit(FEATURES[:60], standard)
    np.testing.assert_allclose(outputs, reference.predict(FEATURES[60:]), rtol=5e-3, atol=5e-3)


def test_validation_rows_choose_the_penalty() -> None:
    probe, _ = solved(Classification(), TARGETS)
    assert probe.penalty in PENALTIES and PENALTIES[0] > probe.penalty > PENALTIES[-1]
    losses = {}
    for penalty in PENALTIES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fusetune.finetune.pytorch.probe.PENALTIES", (penalty,))
            losses[penalty] = solved(Classification(), TARGETS)[0].figures["loss"]
    assert probe.figures["loss"] == pytest.approx(min(losses.values()), rel=1e-3)
    assert min(losses, key=losses.__getitem__) == probe.penalty
    by_accuracy, _ = solved(Classification(), TARGETS, replace(PROBE, stop_by="accuracy"))
    assert by_accuracy.figures["accuracy"] >= probe.figures["accuracy"]


def test_where_all_rows_train_some_are_left_out_to_choose_the_penalty() -> None:
    luck = Targets(IDS, CLASSES, np.random.default_rng(1).integers(0, 2, 80))
    every = Split(SPLITS[0].images, luck)
    made, plan = member(), Plan(Classification(), PROBE, seed=0, only_epochs=1)
    probe = solve_head(made, plan, (every, every), (FEATURES, FEATURES))
    assert probe.penalty > PENALTIES[-1]  # the weakest one fits the rows that chose it best
    held = np.arange(80) % 10 == 9
    splits = (
        Split(SPLITS[0].images, luck.take(~held)),
        Split(SPLITS[0].images, luck.take(held)),
    )
    chosen = solve_head(
        member(), replace(plan, only_epochs=None), splits, (FEATURES[~held], FEATURES[held])
    )
    assert chosen.penalty == probe.penalty
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fusetune.finetune.pytorch.probe.PENALTIES", (probe.penalty,))
        whole = member()
        solve_head(whole, replace(plan, only_epochs=None), (every, every), (FEATURES, FEATURES))
    torch.testing.assert_close(made.model.fc.weight, whole.model.fc.weight)


@pytest.mark.usefixtures("one_penalty")
def test_a_member_that_is_a_probe_keeps_its_body(tmp_path: Path) -> None:
    before = weights(member())
    made, history = finetune(tmp_path, PROBE)
    changed = {name for name, value in weights(made).items() if value != before[name]}
    assert changed == {"fc.weight", "fc.bias"}
    assert len(history.epochs) == history.best_epoch == 1
    (note,) = history.notes
    assert note.startswith(f"the head was solved for: L2 penalty {PENALTY:g}, validation loss 0.")
    assert small_runs.validation_loss(made) == pytest.approx(
        history.epochs[0]["validation_loss"], abs=1e-5
    )


@pytest.mark.usefixtures("one_penalty")
def test_features_that_are_known_give_the_same_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = finetune(tmp_path / "a", PROBE)
    splits = tuple(replace(split, features_ND=features_of(split)) for split in SPLITS)
    monkeypatch.setattr("small_runs.SPLITS", splits)
    other, _ = finetune(tmp_path / "b", PROBE)
    assert weights(one) == weights(other)


@pytest.mark.slow
def test_fine_tuning_begins_at_the_probe_and_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    still = replace(FIRST, epochs=1, optimizer=replace(SETTINGS.optimizer, lr=1e-12))
    made, history = finetune(tmp_path / "still", still)
    probe, _ = finetune(tmp_path / "probe", PROBE)
    for layer in ("weight", "bias"):
        value, start = (getattr(one.model.fc, layer) for one in (made, probe))
        torch.testing.assert_close(value, start)
    assert history.notes[0].startswith("the head was solved for")
    changed, _ = finetune(tmp_path / "whole", FIRST)
    assert weights(changed)["body.0.weight"] != weights(probe)["body.0.weight"]
    assert_resumes(tmp_path / "resumed", FIRST, monkeypatch, stops=(2,))


class Scaled(small_runs.Net):
    """Its outputs are not those of its last layer."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) * 2


def test_outputs_that_are_not_the_heads_cannot_be_probed(tmp_path: Path) -> None:
    made = replace(member(), model=Scaled().eval())
    check_linear_head(Torch(), member())
    with pytest.raises(InvalidValue, match=r"not those of one linear layer.*Write train: head"):
        check_linear_head(Torch(), made)
    with pytest.raises(InvalidValue, match=r"not those of one linear layer"):
        Torch().finetune(made, Plan(Classification(), PROBE, 0), SPLITS, tmp_path, lambda _: None)


def test_a_probe_has_one_layer_and_no_epochs_before_it() -> None:
    with pytest.raises(InvalidValue, match="1 with train: probe, which has one learning rate"):
        FineTune(train="probe", layer_decay=0.5)
    with pytest.raises(InvalidValue, match="null with train: probe_then_full"):
        FineTune(train="probe_then_full", head_epochs=2)
    assert FineTune(train="probe").reads_features  # though images are mirrored by default


def test_a_probe_has_no_teacher() -> None:
    with pytest.raises(InvalidValue, match="null with train: probe, which is solved for"):
        FineTune(train="probe", distill=Distill(teacher="a"))
