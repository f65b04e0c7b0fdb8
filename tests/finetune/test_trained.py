# SPDX-License-Identifier: Apache-2.0
"""Which weights are trained in which epoch, and at which rate."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from fusetune.errors import InvalidValue
from fusetune.finetune.engine import Plan
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.pytorch.layers import depths
from fusetune.finetune.pytorch.loop import Training
from fusetune.finetune.pytorch.optimizer import parameter_groups, set_trained
from fusetune.finetune.settings import FineTune, Lora, Optimizer, Schedule
from fusetune.members.member import Member
from small_runs import (
    CLASSES,
    PREPROCESS,
    SETTINGS,
    SPLITS,
    assert_resumes,
    finetune,
    member,
    untimed,
    weights,
)

pytestmark = pytest.mark.slow

HEAD_FIRST = replace(SETTINGS, train="head_then_full", head_epochs=2)


def changed(work: Path, settings: FineTune) -> set[str]:
    """Names of what a run changed; it keeps its last epoch, whose loss is the lowest here."""
    before = weights(member())
    made, _ = finetune(work, settings)
    return {name for name, value in weights(made).items() if value != before[name]}


def test_the_head_is_trained_first_and_then_everything(tmp_path: Path) -> None:
    made = member()
    trained = []
    for epoch in range(4):
        anew = set_trained(made, HEAD_FIRST, epoch)
        names = {name for name, p in made.model.named_parameters() if p.requires_grad}
        trained.append((anew, names))
        assert made.model.body[1].training == (epoch >= 2)
        assert made.model.fc.training
    everything = {name for name, _ in made.model.named_parameters()}
    head = {"fc.weight", "fc.bias"}
    assert trained == [(True, head), (False, head), (True, everything), (False, everything)]


def test_both_parts_change_what_they_train_by_a_schedule_each(tmp_path: Path) -> None:
    settings = replace(HEAD_FIRST, schedule=Schedule(warmup=0.0))
    early = changed(tmp_path / "early", replace(settings, epochs=3, head_epochs=2, patience=None))
    assert {"fc.weight", "body.0.weight", "body.1.running_mean"} <= early
    _, history = finetune(tmp_path / "both", settings)
    rates = [epoch["lr"] for epoch in untimed(history)]
    peak, progress = SETTINGS.optimizer.peak_lr(), (0.0 + 4 / 5) / 2
    assert rates[0] == rates[2] == pytest.approx(peak * settings.schedule.factor(progress))
    assert rates[1] == rates[3] < rates[0]


def test_the_part_of_the_head_is_a_run_of_the_head(tmp_path: Path) -> None:
    _, head = finetune(tmp_path / "head", replace(SETTINGS, train="head", epochs=2))
    _, both = finetune(tmp_path / "both", HEAD_FIRST)
    assert untimed(both)[:2] == untimed(head)


@pytest.mark.parametrize("optimizer", [SETTINGS.optimizer, Optimizer(lr=0.01)])
def test_a_stopped_run_of_two_parts_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: Optimizer
) -> None:
    settings = replace(HEAD_FIRST, optimizer=optimizer)
    assert_resumes(tmp_path, settings, monkeypatch, stops=(2, 3))


def test_patience_does_not_count_epochs_of_the_head_alone(tmp_path: Path) -> None:
    still = Optimizer(name="sgd", lr=1e-12)
    settings = replace(HEAD_FIRST, epochs=9, head_epochs=5, patience=1, optimizer=still)
    _, history = finetune(tmp_path, settings)
    assert len(history.epochs) >= 6


def test_epochs_of_the_head_that_mean_nothing_are_refused() -> None:
    for wrong in (None, 0, 10):
        with pytest.raises(InvalidValue, match=r"head_epochs is .*below epochs \(10\) with train"):
            FineTune(train="head_then_full", head_epochs=wrong)
    with pytest.raises(InvalidValue, match="head_epochs is 2; expected null with train: full"):
        FineTune(head_epochs=2)


def member_of(model: nn.Module, head: tuple[str, ...]) -> Member:
    return Member(model=model, engine="torch", classes=CLASSES, preprocess=PREPROCESS, head=head)


def test_layers_are_blocks_in_the_models_order() -> None:
    depth_of = depths(member_of(torchvision.models.resnet18(), ("fc",)))
    firsts = {depth_of[name]: name for name in reversed(depth_of)}
    assert [firsts[depth].rpartition(".")[0] for depth in sorted(firsts)] == [
        "conv1",
        *(f"layer{stage}.{block}.conv1" for stage in (1, 2, 3, 4) for block in (0, 1)),
        "fc",
    ]
    assert depth_of["bn1.weight"] == 0
    assert depth_of["layer2.0.downsample.0.weight"] == depth_of["layer2.0.conv1.weight"]
    plain = depths(member_of(torchvision.models.vgg11(), ("classifier.6",)))
    assert max(plain.values()) == 10
    auxiliary = depths(member())
    assert auxiliary["body.0.weight"] == auxiliary["body.1.bias"] == 0
    assert auxiliary["aux.weight"] == 1 and auxiliary["fc.weight"] == auxiliary["fc.bias"] == 2


def test_rates_of_a_transformers_layers_are_timms() -> None:
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    model = timm.create_model("vit_tiny_patch16_224", depth=3)
    expected = {
        id(parameter): group["lr_scale"]
        for group in param_groups_layer_decay(model, layer_decay=0.5)
        for parameter in group["params"]
    }
    groups = parameter_groups(member_of(model, ("head",)), FineTune(layer_decay=0.5))
    found = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    names = {name: (found[id(p)], expected[id(p)]) for name, p in model.named_parameters()}
    assert all(ours == theirs for ours, theirs in names.values())
    assert len({ours for ours, _ in names.values()}) == 5


def test_layers_before_the_head_take_smaller_steps(tmp_path: Path) -> None:
    settings = replace(SETTINGS, layer_decay=0.5)
    training = Training(member(), Plan(Classification(), settings, 0), SPLITS, torch.device("cpu"))
    training.prepare(None)
    training.rates.set(0.8)
    rates = {id(p): g["lr"] for g in training.optimizer.param_groups for p in g["params"]}
    names = {name: rates[id(p)] for name, p in training.model.named_parameters()}
    assert names["fc.weight"] == names["fc.bias"] == 0.8
    assert names["aux.weight"] == 0.4
    assert names["body.0.weight"] == names["body.1.bias"] == 0.2
    _, history = finetune(tmp_path, settings)
    _, plain = finetune(tmp_path / "plain", SETTINGS)
    assert [e["lr"] for e in untimed(history)] == [e["lr"] for e in untimed(plain)]
    assert untimed(history) != untimed(plain)


def test_a_model_that_is_nothing_but_a_head_is_trained_as_a_whole() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    made = member_of(model, ("1",))
    assert depths(made) == {"1.weight": 1, "1.bias": 1}
    set_trained(made, FineTune(train="head"), 0)
    assert [part.training for part in (model, model[1])] == [False, True]
    set_trained(made, FineTune(), 0)
    assert all(part.training for part in model.modules())


def test_layers_join_the_head_one_after_another() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(4)))
    made = member_of(model, ("3",))
    settings = FineTune(epochs=9, train="gradual", head_epochs=6)
    trained = []
    for epoch in range(9):
        set_trained(made, settings, epoch)
        frozen = [any(not p.requires_grad for p in part.parameters()) for part in model]
        assert [not part.training for part in model] == frozen
        trained.append(4 - sum(frozen))
    assert trained == [1, 1, 2, 2, 3, 3, 4, 4, 4]
    assert model.training


@pytest.mark.parametrize("optimizer", [SETTINGS.optimizer, Optimizer(lr=0.01)])
def test_a_stopped_gradual_run_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: Optimizer
) -> None:
    settings = replace(
        SETTINGS, train="gradual", head_epochs=3, layer_decay=0.7, optimizer=optimizer
    )
    assert_resumes(tmp_path, settings, monkeypatch, stops=(2, 3, 4))


def test_layer_decay_that_means_nothing_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"layer_decay is 0; expected a number in \(0, 1\]"):
        FineTune(layer_decay=0)
    with pytest.raises(InvalidValue, match=r"layer_decay is 0.5; expected 1 with train: head"):
        FineTune(layer_decay=0.5, train="head")


def test_adapters_that_mean_nothing_are_refused() -> None:
    for wrong, message in (
        ({"rank": 0}, r"lora.rank is 0; expected a whole number of at least 1"),
        ({"alpha": 0.0}, r"lora.alpha is 0.0; expected a number above 0"),
        ({"dropout": 1.0}, r"lora.dropout is 1.0; expected a share in \[0, 1\)"),
        ({"targets": ()}, r"lora.targets is \(\); expected names of layers"),
    ):
        with pytest.raises(InvalidValue, match=message):
            Lora(**wrong)
    with pytest.raises(InvalidValue, match="lora is given; expected null with train: full"):
        FineTune(lora=Lora())
    with pytest.raises(InvalidValue, match=r"layer_decay is 0\.5; expected 1 with train: lora"):
        FineTune(train="lora", layer_decay=0.5)
    assert FineTune(train="lora").adapters == Lora() and FineTune().adapters is None
