# SPDX-License-Identifier: Apache-2.0
"""A head on features that were computed once ends as it would behind its frozen backbone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import small_runs
from fusetune.data.datasets.digits import Digits
from fusetune.data.prepare import prepare
from fusetune.data.roles import Roles
from fusetune.finetune.engine import Plan
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.feature_steps import feature_rows
from fusetune.finetune.features import Features
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.settings import Augmentation, FineTune, Optimizer, Schedule
from fusetune.finetune.steps import Finetuned, finetune_member, predict_member
from fusetune.members.member import PreprocessOverride
from fusetune.members.sources.mini import Mini
from fusetune.members.sources.torchvision import Torchvision
from fusetune.predictions.files import read_probabilities
from small_runs import SETTINGS, SPLITS, assert_resumes, finetune, member, untimed, weights

PLAIN = replace(SETTINGS, train="head", augmentation=Augmentation(flip=False))
HEAD_FIRST = replace(PLAIN, train="head_then_full", head_epochs=2)


def silent(event: Any) -> None:
    """Progress is not looked at."""


def with_features() -> tuple[Any, Any]:
    """The splits of `small_runs`, with what its net makes of them."""
    return tuple(
        replace(split, features_ND=Torch().features(member(), split.images, silent)[0])
        for split in SPLITS
    )


@contextmanager
def counted_passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Rows of every pass through the net's body."""
    rows: list[int] = []
    forward = small_runs.Net.forward

    def counting(self: Any, images: Any) -> Any:
        rows.append(len(images))
        return forward(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(small_runs.Net, "forward", counting)
        yield rows


@pytest.mark.parametrize(
    "settings",
    [
        PLAIN,
        replace(PLAIN, label_smoothing=0.1, ema=0.9, class_weights="balanced"),
        replace(PLAIN, optimizer=Optimizer(lr=0.01), sampling="balanced"),
        HEAD_FIRST,
        replace(PLAIN, train="gradual", head_epochs=3, epochs=5),
    ],
    ids=["head", "smoothed", "balanced", "head_then_full", "gradual"],
)
def test_weights_are_those_of_training_behind_the_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: FineTune
) -> None:
    slow, before = finetune(tmp_path / "slow", settings)
    monkeypatch.setattr("small_runs.SPLITS", with_features())
    fast, after = finetune(tmp_path / "fast", settings)
    for name, value in slow.model.state_dict().items():
        torch.testing.assert_close(fast.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert after.best_epoch == before.best_epoch
    for one, other in zip(untimed(before), untimed(after), strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-6)


def test_features_of_the_batches_that_training_sees_give_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(PLAIN, batch_size=len(SPLITS[0].ids), epochs=3)
    monkeypatch.setattr(  # rows in one order, in both: sums over a batch then are in one order
        "fusetune.finetune.pytorch.loop.epoch_order", lambda keys, *_, **__: np.arange(len(keys))
    )
    slow, _ = finetune(tmp_path / "slow", settings)
    monkeypatch.setattr("small_runs.SPLITS", with_features())
    fast, _ = finetune(tmp_path / "fast", settings)
    assert weights(fast) == weights(slow)


def test_the_backbone_does_not_run_while_the_head_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("small_runs.SPLITS", with_features())
    with counted_passes(monkeypatch) as rows:
        finetune(tmp_path / "head", PLAIN)
        assert rows == []
        finetune(tmp_path / "first", HEAD_FIRST)
        assert sum(rows) == 2 * sum(len(split.ids) for split in SPLITS)  # two of four epochs
    with counted_passes(monkeypatch) as rows:
        gradual = replace(PLAIN, train="gradual", head_epochs=3, epochs=5)
        finetune(tmp_path / "gradual", gradual)
        assert 0 < sum(rows) < 5 * sum(len(split.ids) for split in SPLITS)


def test_what_changes_images_leaves_features_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for field, value in {"flip": True, "mixup": 0.5, "resized_crop": 0.5, "cutout": 2}.items():
        augmentation = replace(Augmentation(flip=False), **{field: value})
        assert not augmentation.is_off
        settings = replace(PLAIN, epochs=1, augmentation=augmentation)
        assert not settings.reads_features
        without, _ = finetune(tmp_path / f"{field}-without", settings)
        with monkeypatch.context() as patch:
            patch.setattr("small_runs.SPLITS", with_features())
            given, _ = finetune(tmp_path / f"{field}-with", settings)
        assert weights(given) == weights(without)
    assert not replace(PLAIN, train="full").reads_features


@pytest.mark.slow
@pytest.mark.parametrize("settings", [PLAIN, HEAD_FIRST], ids=["head", "head_then_full"])
def test_a_stopped_run_on_features_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: FineTune
) -> None:
    monkeypatch.setattr("small_runs.SPLITS", with_features())
    assert_resumes(tmp_path, settings, monkeypatch, stops=(1, 2, 3))


VGG = Mini(model="vgg")
HEAD = FineTune(
    train="head",
    epochs=3,
    batch_size=16,
    optimizer=Optimizer(lr=0.01),
    schedule=Schedule(name="constant"),
    augmentation=Augmentation(flip=False),
)
PLAN = Plan(Classification(), HEAD, seed=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored rows of the digits."""
    roles = Roles(train=60, validation=30, holdout=30, test=30)
    folder = tmp_path_factory.mktemp("data")
    prepare({"all": Digits()}, roles).save(folder)
    return folder


def computed(folder: Path, data: Path, source: Any = VGG, **more: Any) -> Path:
    """A features artifact of all rows."""
    folder.mkdir()
    parts = more.pop("parts", [np.arange(150)])
    feature_rows(folder, source, data, parts, more.pop("known", []), silent)
    return folder


def finetuned(folder: Path, data: Path, features: Path | None, source: Any = VGG) -> Path:
    folder.mkdir()
    finetune_member(folder, source, data, PLAN, silent, features)
    return folder


def notes(folder: Path) -> list[str]:
    return list(json.loads((folder / "history.json").read_text())["notes"])


def test_steps_read_features_in_place_of_images(tmp_path: Path, data: Path) -> None:
    features = computed(tmp_path / "features", data)
    slow = finetuned(tmp_path / "slow", data, None)
    fast = finetuned(tmp_path / "fast", data, features)
    assert notes(fast) == notes(slow) == []
    predictions = []
    for name, made, read in (("a", slow, ()), ("b", fast, (features,))):
        (tmp_path / name).mkdir()
        kept = Finetuned(made / "weights.safetensors", read)
        predict_member(tmp_path / name, VGG, data, kept, Classification(), silent)
        predictions.append(read_probabilities(tmp_path / name / "test.parquet").array_NC)
        cost = json.loads((tmp_path / name / "cost.json").read_text())
        assert cost["predict_per_row"] > 0
    np.testing.assert_allclose(*predictions, atol=1e-5)


def test_predictions_read_features_and_no_image(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = computed(tmp_path / "features", data)
    made = finetuned(tmp_path / "made", data, features)

    def unread(*_: Any) -> Any:
        raise AssertionError("the backbone ran")

    monkeypatch.setattr("fusetune.finetune.steps.predicted_pieces", unread)
    (tmp_path / "out").mkdir()
    kept = Finetuned(made / "weights.safetensors", (features,))
    predict_member(tmp_path / "out", VGG, data, kept, Classification(), silent)
    per_row = json.loads((features / "about.json").read_text())["seconds_per_row"]
    cost = json.loads((tmp_path / "out" / "cost.json").read_text())
    assert cost["predict_per_row"] > per_row  # the features are part of what a prediction costs


def test_features_of_other_weights_are_not_used(tmp_path: Path, data: Path) -> None:
    features = computed(tmp_path / "features", data)
    about = json.loads((features / "about.json").read_text())
    (features / "about.json").write_text(json.dumps({**about, "backbone": "0" * 64}))
    slow = finetuned(tmp_path / "slow", data, None)
    made = finetuned(tmp_path / "made", data, features)
    assert notes(made) == ["features were not used: other weights of the checkpoint made them"]
    whole = "weights.safetensors"
    assert (made / whole).read_bytes() == (slow / whole).read_bytes()


def test_a_head_that_is_no_linear_layer_is_trained_as_ever(tmp_path: Path, data: Path) -> None:
    squeezenet = Torchvision(
        model="squeezenet1_1", weights="none", preprocess=PreprocessOverride(size=32)
    )
    features = computed(tmp_path / "features", data, squeezenet)
    assert Features.load(features) is None
    assert sorted(path.name for path in features.iterdir()) == ["about.json"]
    made = finetuned(tmp_path / "made", data, features, squeezenet)
    (note,) = notes(made)
    assert note.startswith("features were not kept: its outputs are not those of one linear layer")


def test_parts_that_are_known_are_not_run_again(tmp_path: Path, data: Path) -> None:
    rows = np.random.default_rng(0).permutation(150)
    parts = [rows[:40], rows[40:]]
    whole = Features.load(computed(tmp_path / "whole", data, parts=parts))
    np.save(tmp_path / "known.npy", np.full((40, whole.features_ND.shape[1]), 7, np.float32))
    known = [(tmp_path / "known.npy", 1000.0)]
    made = Features.load(computed(tmp_path / "made", data, parts=parts, known=known))
    np.testing.assert_array_equal(made.rows_N, np.arange(150))
    assert (made.take(np.sort(parts[0])) == 7).all()
    np.testing.assert_array_equal(made.take(parts[1]), whole.take(parts[1]))
    assert made.seconds_per_row > 1000 * 40 / 150
    assert made.backbone == whole.backbone


def test_rows_that_are_not_there_are_told_apart(tmp_path: Path, data: Path) -> None:
    made = Features.load(computed(tmp_path / "some", data, parts=[np.array([5, 3, 100])]))
    assert made.take(np.array([100, 3])).shape[0] == 2
    assert made.take(np.array([3, 4])) is None
    assert made.take(np.array([149])) is None


def test_a_range_test_trains_what_the_run_will_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head alone on features, but every weight where the body is to be trained later."""
    for name, settings in {"head": PLAIN, "first": HEAD_FIRST}.items():
        tested = replace(settings, optimizer=Optimizer(name="sgd", lr="range_test"))
        slow, before = finetune(tmp_path / f"{name}-slow", tested)
        with monkeypatch.context() as patch:
            patch.setattr("small_runs.SPLITS", with_features())
            fast, after = finetune(tmp_path / f"{name}-fast", tested)
        assert after.range_test.lr == pytest.approx(before.range_test.lr, rel=0.3)
        assert after.best_epoch >= 1
        assert set(weights(fast)) == set(weights(slow))
