# SPDX-License-Identifier: Apache-2.0
"""Distillation: the losses by hand, what is mixed, and runs that learn from a teacher."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import entropy

from fusetune.entries import candidate_entries, member_entries
from fusetune.errors import InvalidValue, RecipeError
from fusetune.finetune.engine import Plan, Split
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.objective import Objective
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.objectives.multilabel import Multilabel
from fusetune.finetune.objectives.regression import Regression
from fusetune.finetune.pytorch.augment import partners
from fusetune.finetune.pytorch.distill import Lessons
from fusetune.finetune.pytorch.loop import Training
from fusetune.finetune.settings import Augmentation, Distill, FineTune, Optimizer
from fusetune.predictions.targets import LabelSets, Numbers
from small_runs import CLASSES, SETTINGS, SPLITS, assert_resumes, finetune, member, untimed, weights

DISTILL = replace(SETTINGS, distill=Distill(teacher="teacher"))
RANDOM = np.random.default_rng(0)
SAID, OUTPUTS = RANDOM.normal(0, 2, (2, 5, 3)).astype(np.float32)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """What a teacher says of the train rows: the truth, but of the first eight the contrary."""
    labels = SPLITS[0].targets.labels_N.copy()
    labels[:8] = 1 - labels[:8]
    path = tmp_path / "outputs.npy"
    np.save(path, (4 * np.eye(2)[labels]).astype(np.float32))
    return path


def test_the_loss_of_classes_is_the_divergence_times_the_squared_temperature() -> None:
    soft = Classification().soft_targets(SAID, 2.0)
    np.testing.assert_allclose(soft, softmax(SAID / 2, axis=1), rtol=1e-5)
    outputs = torch.from_numpy(OUTPUTS).requires_grad_()
    loss = Classification().teaching_loss(outputs, torch.from_numpy(soft), 2.0)
    divergence = entropy(softmax(SAID / 2, axis=1), softmax(OUTPUTS / 2, axis=1), axis=1)
    assert float(loss.detach()) == pytest.approx(4 * divergence.mean(), rel=1e-5)
    loss.backward()
    expected = 2 * (softmax(OUTPUTS / 2, axis=1) - softmax(SAID / 2, axis=1)) / 5
    np.testing.assert_allclose(outputs.grad.numpy(), expected, atol=1e-6)


def test_at_high_temperatures_the_gradient_is_that_of_the_squared_distance_of_logits() -> None:
    """Equation 4 of Hinton et al. 2015, for logits of mean 0."""
    said, outputs = (one - one.mean(axis=1, keepdims=True) for one in (SAID, OUTPUTS))
    learned = torch.from_numpy(outputs).requires_grad_()
    soft = torch.from_numpy(Classification().soft_targets(said, 500.0))
    Classification().teaching_loss(learned, soft, 500.0).backward()
    np.testing.assert_allclose(learned.grad.numpy(), (outputs - said) / 3 / 5, atol=2e-3)


def test_the_loss_of_label_sets_is_the_mean_of_each_labels_divergence() -> None:
    soft = Multilabel().soft_targets(SAID, 2.0)
    np.testing.assert_allclose(soft, expit(SAID / 2), rtol=1e-5)
    loss = Multilabel().teaching_loss(torch.from_numpy(OUTPUTS), torch.from_numpy(soft), 2.0)
    p, q = (np.stack([expit(one / 2), expit(-one / 2)]) for one in (SAID, OUTPUTS))
    assert float(loss) == pytest.approx(4 * entropy(p, q, axis=0).mean(), rel=1e-4)


def test_the_loss_of_numbers_is_the_squared_distance() -> None:
    soft = torch.from_numpy(Regression().soft_targets(SAID, 2.0))
    loss = Regression().teaching_loss(torch.from_numpy(OUTPUTS), soft, 2.0)
    assert float(loss) == pytest.approx(np.square(SAID - OUTPUTS).mean(), rel=1e-5)


def test_auxiliary_heads_are_taught_too() -> None:
    outputs, soft = torch.from_numpy(OUTPUTS), torch.from_numpy(softmax(SAID, axis=1))
    one = Classification().teaching_loss(outputs, soft, 1.0)
    both = Classification().teaching_loss((outputs, outputs), soft, 1.0)
    assert float(both) == pytest.approx(1.4 * float(one))


def test_what_a_teacher_says_is_mixed_like_the_images(teacher: Path) -> None:
    plan = Plan(Classification(), DISTILL, seed=3, teacher=teacher)
    lessons = Lessons(plan, 40, torch.device("cpu"))
    rows, shares = torch.tensor([3, 1, 2]), torch.tensor([1.0, 0.25, 0.0])
    soft = torch.from_numpy(softmax(np.load(teacher) / 2, axis=1))[rows]
    torch.testing.assert_close(lessons.of(rows, None), soft)
    expected = shares[:, None] * soft + (1 - shares[:, None]) * partners(soft)
    torch.testing.assert_close(lessons.of(rows, shares), expected)
    loss, outputs = torch.tensor(2.0), torch.zeros(3, 2)
    taught = Classification().teaching_loss(outputs, soft, 2.0)
    blended = lessons.blended(loss, outputs, soft)
    assert float(blended) == pytest.approx(1.0 + 0.5 * float(taught))
    nothing = Lessons(replace(plan, settings=SETTINGS, teacher=None), 40, torch.device("cpu"))
    assert nothing.of(rows, shares).shape == (3, 0) and nothing.notes == ()
    assert nothing.blended(loss, outputs, soft) is loss


def test_a_student_learns_what_its_teacher_says_and_the_targets_do_not(
    tmp_path: Path, teacher: Path
) -> None:
    whole = replace(DISTILL, distill=Distill(teacher="teacher", weight=1.0), epochs=2)
    other = np.load(teacher)[:, ::-1]
    np.save(tmp_path / "other.npy", other)
    one, history = finetune(tmp_path / "one", whole, teacher=teacher)
    two, _ = finetune(tmp_path / "two", whole, teacher=tmp_path / "other.npy")
    ours, theirs = (
        Torch().outputs(made, SPLITS[0].images, lambda event: None).argmax(axis=1)
        for made in (one, two)
    )
    labels = SPLITS[0].targets.labels_N
    assert (ours == labels)[8:].mean() > 0.8
    assert (theirs == labels)[8:].mean() < 0.2
    assert history.notes[0] == "it was taught by 'teacher', with weight 1"


@pytest.mark.parametrize("objective", [Regression(), Multilabel()])
def test_students_of_numbers_and_of_label_sets_come_to_what_the_teacher_says(
    tmp_path: Path, objective: Objective[Any]
) -> None:
    ids, images = SPLITS[0].ids, SPLITS[0].images
    if isinstance(objective, Regression):
        truth: Any = Numbers(ids, CLASSES, RANDOM.normal(size=(40, 2)))
    else:
        truth = LabelSets(ids, CLASSES, RANDOM.random((40, 2)) < 0.5)
    said = np.tile(np.float32([1.0, -1.0]), (40, 1))
    np.save(tmp_path / "outputs.npy", said)
    settings = replace(
        DISTILL, distill=Distill(teacher="t", weight=1.0), optimizer=Optimizer(lr=0.02)
    )
    fitted = objective.fitted(truth)
    plan = Plan(fitted, settings, seed=3, teacher=tmp_path / "outputs.npy")
    made, split = member(), Split(images, truth)
    before = Torch().outputs(made, images, lambda event: None)
    history = Torch().finetune(made, plan, (split, split), tmp_path / "work", lambda event: None)
    rates = [epoch["train_loss"] for epoch in history.epochs]
    assert rates[-1] < 0.5 * rates[0]
    after = Torch().outputs(made, images, lambda event: None)
    assert np.abs(after - said).mean() < np.abs(before - said).mean()


def test_a_weight_of_nearly_nothing_changes_nearly_nothing(tmp_path: Path, teacher: Path) -> None:
    little = replace(DISTILL, distill=Distill(teacher="teacher", weight=1e-7))
    _, taught = finetune(tmp_path / "taught", little, teacher=teacher)
    _, plain = finetune(tmp_path / "plain", SETTINGS)
    for one, two in zip(untimed(taught), untimed(plain), strict=True):
        assert one == pytest.approx(two, rel=1e-3)


@pytest.mark.parametrize("more", [{}, {"augmentation": Augmentation(mixup=0.4, cutmix=1.0)}])
def test_a_stopped_student_ends_with_the_same_bytes(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, object]
) -> None:
    assert_resumes(tmp_path, replace(DISTILL, **more), monkeypatch, stops=(2,), teacher=teacher)


def test_a_batch_in_parts_is_taught_part_by_part(teacher: Path) -> None:
    plan = Plan(Classification(), DISTILL, seed=3, teacher=teacher)
    losses = []
    for parts in (1, 2):
        training = Training(member(), plan, SPLITS, torch.device("cpu"))
        training.prepare(None)
        training.model.eval()  # batch norm sees each part by itself
        training.state.parts = parts
        pixels = torch.from_numpy(SPLITS[0].images.pixels_NHW3[:8])
        training.train_step(pixels, torch.arange(8))
        losses.append(float(training.loss_sum))
        gradients = [p.grad.clone() for p in training.model.parameters() if p.grad is not None]
        losses.append(float(torch.stack([g.norm() for g in gradients]).sum()))
    assert losses[:2] == pytest.approx(losses[2:], rel=1e-4)
    assert weights(member()) != weights(training.member)


def entries(*content: object) -> list[tuple[str, ...]]:
    made = member_entries(list(content), FineTune(), Path.cwd())
    return [entry.made_of for entry in made]


def student(teacher: str, name: str = "student") -> dict[str, object]:
    distill = {"distill": {"teacher": teacher}}
    return {"source": "mini", "model": "vgg", "name": name, "finetune": distill}


def test_a_teacher_stands_above_its_student() -> None:
    cycles = {"source": "mini", "model": "vgg", "name": "c", "finetune": {"snapshots": 2}}
    soup = {"name": "soup", "soup": "uniform_soup", "of": ["c-1", "c-2"]}
    assert entries("mini:resnet", student("mini-resnet")) == [(), ("mini-resnet",)]
    made = entries(cycles, student("c-2"), soup, student("soup", "other"))
    assert made == [(), ("c-1",), ("c-2",), ("c-1", "c-2"), ("soup",)]
    for content, message in (
        ([student("student")], r"members\[0\].finetune.distill.teacher is 'student', which it is"),
        ([student("t"), {**student("student"), "name": "t"}], "is 't', which stands below it"),
        (["mini:resnet", student("resnet")], "no member is called 'resnet' .*Did you mean 'mini-r"),
    ):
        with pytest.raises(RecipeError, match=message):
            entries(*content)
    with pytest.raises(RecipeError, match="is 'mini-resnet', and it is a candidate"):
        candidate_entries(["mini:resnet", student("mini-resnet")], FineTune(), Path.cwd())


def test_settings_that_mean_nothing_are_refused() -> None:
    for wrong, message in (
        ({"weight": 0.0}, r"distill.weight is 0.0; expected a share in \(0, 1\]"),
        ({"weight": 1.5}, "distill.weight is 1.5"),
        ({"temperature": 0.0}, r"distill.temperature is 0.0; expected a number above 0"),
    ):
        with pytest.raises(InvalidValue, match=message):
            Distill(teacher="a", **wrong)
    cold = FineTune(distill=Distill(teacher="a", temperature=4.0))
    with pytest.raises(
        InvalidValue, match=r"temperature is 4.0, and the objective regression has none"
    ):
        Regression().check(cold)
    Regression().check(FineTune(distill=Distill(teacher="a")))
    Classification().check(cold)
