# SPDX-License-Identifier: Apache-2.0
"""The step that makes a soup: shared starts, re-estimated statistics, what it writes and says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from fusetune.data.datasets.digits import Digits
from fusetune.data.inputs import PixelImages
from fusetune.data.prepare import Prepared, prepare
from fusetune.data.roles import Roles
from fusetune.errors import MemberFailed, WeightsError
from fusetune.finetune.engine import Engine, Plan, Split
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.settings import Augmentation, FineTune, Optimizer
from fusetune.finetune.soup_entry import SoupOf
from fusetune.finetune.soup_steps import SoupPlan, soup_members
from fusetune.finetune.steps import Finetuned, finetune_member, predict_member
from fusetune.fuse.soup import Soup
from fusetune.fuse.soups.greedy_soup import GreedySoup
from fusetune.fuse.soups.model_stock import ModelStock
from fusetune.fuse.soups.uniform_soup import UniformSoup
from fusetune.fuse.soups.wise_ft import WiseFt
from fusetune.members.member import Member, Preprocess
from fusetune.members.sources.mini import Mini
from fusetune.metrics.accuracy import Accuracy
from fusetune.metrics.log_loss import LogLoss
from fusetune.predictions.files import read_probabilities
from fusetune.predictions.targets import Targets

pytestmark = pytest.mark.slow

SETTINGS = FineTune(
    epochs=4,
    batch_size=32,
    optimizer=Optimizer(lr=2e-3),
    augmentation=Augmentation(flip=False),
)
PREPROCESS = Preprocess(size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
RESNET = Mini(model="resnet")


def silent(event: Any) -> None:
    """Progress is not looked at."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored rows of the digits."""
    roles = Roles(train=80, validation=40, holdout=60, test=40)
    prepared: Prepared = prepare({"all": Digits()}, roles)
    folder = tmp_path_factory.mktemp("data")
    prepared.save(folder)
    return folder


def finetuned(
    folder: Path, data: Path, seed: int, settings: FineTune = SETTINGS, start_seed: int = 1
) -> Path:
    folder.mkdir()
    plan = Plan(Classification(), settings, seed, start_seed)
    finetune_member(folder, RESNET, data, plan, silent)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Path, Path]:
    """Two fine-tunings of one start."""
    folder = tmp_path_factory.mktemp("members")
    return finetuned(folder / "a", data, 2), finetuned(folder / "b", data, 3)


def plan_of(method: Soup, folders: tuple[Path, ...], **changes: Any) -> SoupPlan:
    names = tuple(folder.name for folder in folders)
    plan = SoupPlan(
        soup=SoupOf(method=method, of=names),
        sources=(RESNET,) * len(folders),
        folders=folders,
        weights=tuple(folder / "weights.safetensors" for folder in folders),
        start_seed=1,
        objective=Classification(),
        metric=LogLoss(),
    )
    return replace(plan, **changes)


def souped(folder: Path, data: Path, plan: SoupPlan) -> tuple[dict[str, Any], list[str], list[Any]]:
    """What the soup's record, its notes and the events say."""
    folder.mkdir()
    events: list[Any] = []
    soup_members(folder, RESNET, data, plan, events.append)
    record = json.loads((folder / "soup.json").read_text())
    return record, json.loads((folder / "member.json").read_text())["notes"], events


def copied(folder: Path, to: Path, change: Any) -> Path:
    """A member with other weights."""
    to.mkdir()
    for name in ("member.json", "history.json"):
        (to / name).write_bytes((folder / name).read_bytes())
    weights = {
        name: change(name, value)
        for name, value in load_file(folder / "weights.safetensors").items()
    }
    save_file(weights, to / "weights.safetensors")
    return to


def around(folder: Path, to: Path) -> tuple[Path, Path]:
    """Two members on both sides of a good one, so that their average is better than both."""

    def moved(sign: int) -> Any:
        random = np.random.default_rng(0)

        def change(name: str, value: Any) -> Any:
            if value.dtype.kind != "f" or "running" in name:
                return value + value.dtype.type(sign) if "mean" in name else value
            step = 0.3 * np.abs(value).mean() * random.normal(size=value.shape)
            return (value + sign * step).astype(value.dtype)

        return change

    return copied(folder, to / "a", moved(1)), copied(folder, to / "b", moved(-1))


def test_members_of_a_soup_share_the_bits_they_start_from(
    two: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    starts = [json.loads((made / "member.json").read_text())["start"] for made in two]
    assert starts[0] == starts[1]
    other = finetuned(tmp_path / "c", data, 2, start_seed=2)
    assert json.loads((other / "member.json").read_text())["start"] != starts[0]


def test_a_uniform_soup_has_average_weights_and_statistics_of_its_own(
    two: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    apart = around(two[0], tmp_path)
    record, notes, events = souped(tmp_path / "soup", data, plan_of(UniformSoup(), apart))
    made = [load_file(folder / "weights.safetensors") for folder in apart]
    soup = load_file(tmp_path / "soup" / "weights.safetensors")
    assert record["weights"] == {"a": 0.5, "b": 0.5}
    assert record["shared_start"] is True
    assert not record["fell_back"]
    name = "stages.0.conv2.weight"
    mean = (made[0][name].astype(float) + made[1][name].astype(float)) / 2
    assert np.array_equal(soup[name], mean.astype(np.float32))
    mean = (made[0]["stem.1.running_mean"] + made[1]["stem.1.running_mean"]) / 2
    assert np.abs(soup["stem.1.running_mean"] - mean).max() > 1e-4
    assert soup["stem.1.num_batches_tracked"] == made[0]["stem.1.num_batches_tracked"]
    assert record["rows"] == {"holdout": 60, "train": 80}
    assert "its batch-norm statistics are re-estimated on the 80 train rows" in notes
    assert [event["phase"] for event in events] == ["soup"] * record["tried"]
    (path,) = record["paths"]
    assert path["at"] == [0, 0.25, 0.5, 0.75, 1]
    assert len(path["losses"]) == 5
    assert any("on the straight way from" in note for note in notes)
    predicted = tmp_path / "predicted"
    predicted.mkdir()
    weights = tmp_path / "soup" / "weights.safetensors"
    predict_member(predicted, RESNET, data, Finetuned(weights), Classification(), silent)
    holdout = read_probabilities(predicted / "holdout.parquet")
    targets = _targets(data)
    value = LogLoss().value(LogLoss().statistics(holdout, targets))
    assert record["score"] == pytest.approx(value, abs=1e-6)


def _targets(data: Path) -> Targets:
    from fusetune.data.prepare import load_prepared

    return load_prepared(data).targets("holdout")


def test_a_soup_that_is_worse_is_its_best_member_to_the_bit(
    two: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)

    def spoil(name: str, value: Any) -> Any:
        drawn = random.normal(0, 9, value.shape).astype(np.float32)
        return drawn if name == "head.weight" else value

    spoiled = copied(two[1], tmp_path / "b", spoil)
    plan = plan_of(UniformSoup(), (two[0], spoiled), metric=Accuracy())
    record, notes, _ = souped(tmp_path / "soup", data, plan)
    assert record["fell_back"]
    assert record["same_as"] == record["best"] == "a"
    assert record["score"] < record["members"]["a"]["score"]
    assert "the soup was worse there, so 'a' takes its place" in notes
    soup, best = (load_file(p / "weights.safetensors") for p in (tmp_path / "soup", two[0]))
    assert all(np.array_equal(soup[name], best[name]) for name in best)
    greedy, notes, _ = souped(tmp_path / "greedy", data, replace(plan, soup=_greedy(plan)))
    assert greedy["weights"] == {"a": 1.0, "b": 0.0}
    assert "the soup is 'a' itself: no mixture was better" in notes


def _greedy(plan: SoupPlan) -> SoupOf:
    return replace(plan.soup, method=GreedySoup())


def test_the_start_is_loaded_again_to_the_bit(
    two: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    stock, _, _ = souped(tmp_path / "stock", data, plan_of(ModelStock(), two))
    assert 0 < stock["settings"]["ratio"] < 1
    wise, notes, _ = souped(tmp_path / "wise", data, plan_of(WiseFt(), two[:1]))
    assert wise["settings"]["coefficient"] in WiseFt().coefficients
    assert len(wise["along"]) == len(WiseFt().coefficients)
    assert wise["paths"] == []
    assert any(f"coefficient {wise['settings']['coefficient']:.3g}" in note for note in notes)
    with pytest.raises(WeightsError, match="they are not the same when they are loaded again"):
        souped(tmp_path / "moved", data, plan_of(ModelStock(), two, start_seed=7))


def test_a_start_that_is_not_shared_or_not_known_is_said(
    two: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    other = finetuned(tmp_path / "c", data, 2, start_seed=2)
    record, notes, _ = souped(tmp_path / "one", data, plan_of(UniformSoup(), (two[0], other)))
    assert record["shared_start"] is False
    assert any("that its members share a start is not so" in note for note in notes)
    sources = (RESNET, replace(RESNET, weights="none"))
    plan = plan_of(UniformSoup(), (two[0], other), sources=sources)
    record, notes, _ = souped(tmp_path / "two", data, plan)
    assert record["shared_start"] is None
    assert "that its members share a start is not known: their `weights` differ" in notes
    with pytest.raises(WeightsError, match="members of one start"):
        souped(tmp_path / "three", data, plan_of(ModelStock(), (two[0], other)))


def test_statistics_that_fine_tuning_left_alone_stay(data: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, train="head")
    heads = tuple(
        finetuned(tmp_path / name, data, seed, settings) for name, seed in (("a", 2), ("b", 3))
    )
    record, notes, _ = souped(tmp_path / "soup", data, plan_of(UniformSoup(), heads))
    assert record["rows"] == {"holdout": 60}
    assert not any("batch-norm" in note for note in notes)
    soup, first = (load_file(p / "weights.safetensors") for p in (tmp_path / "soup", heads[0]))
    assert np.array_equal(soup["stem.1.running_var"], first["stem.1.running_var"])


def test_members_that_prepare_images_differently_are_refused(
    two: tuple[Path, Path], data: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "b"
    changed.mkdir()
    about = json.loads((two[1] / "member.json").read_text())
    about["preprocess"]["size"] = 24
    (changed / "member.json").write_text(json.dumps(about))
    with pytest.raises(WeightsError, match="'a' and 'b' of the soup prepare their images"):
        souped(tmp_path / "soup", data, plan_of(UniformSoup(), (two[0], changed)))


class Net(nn.Module):
    """Batch norm on the pixels themselves, so that its statistics can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, momentum=0.3)
        self.rest = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(192, 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.rest(self.norm(images))
        return logits


def test_statistics_are_the_average_over_equal_batches() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (600, 8, 8, 3), dtype=np.uint8)
    pixels[:300] //= 2  # sorted rows: batches have to be mixed
    ids = np.array([f"row{i}" for i in range(600)])
    split = Split(PixelImages(pixels), Targets(ids, ("x", "y"), np.arange(600) % 2))
    model = Net()
    model.norm.num_batches_tracked.fill_(5)
    model.rest.train()
    member = Member(
        model=model, engine="torch", classes=("x", "y"), preprocess=PREPROCESS, head=("rest.2",)
    )
    before = torch.random.get_rng_state()
    Torch().refresh_statistics(member, split)
    values = pixels.reshape(600, 64, 3) / 255
    np.testing.assert_allclose(model.norm.running_mean, values.mean(axis=(0, 1)), atol=1e-5)
    np.testing.assert_allclose(model.norm.running_var, values.reshape(-1, 3).var(axis=0), rtol=0.01)
    assert model.norm.momentum == 0.3
    assert model.norm.num_batches_tracked == 5
    assert model.rest.training
    assert torch.equal(before, torch.random.get_rng_state())
    first = model.norm.running_var.clone()
    Torch().refresh_statistics(member, split)
    assert torch.equal(first, model.norm.running_var)
    assert Torch().statistics(member) == {"norm.running_mean", "norm.running_var"}


def test_a_state_goes_out_and_in_to_the_bit() -> None:
    torch.manual_seed(0)
    model, other = Net(), Net()
    about = {"engine": "torch", "classes": ("x", "y"), "preprocess": PREPROCESS, "head": ()}
    member, target = (Member(model=net, **about) for net in (model, other))
    state = Torch().state(member)
    Torch().set_state(target, state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    state["norm.weight"][:] = 7  # a copy: the model is not touched
    assert float(model.norm.weight.detach().max()) == 1
    member.model.bfloat16()
    assert Torch().state(member)["norm.weight"].dtype == np.float32


def test_an_engine_without_weights_says_so() -> None:
    class Trees(Engine):
        check = finetune = outputs = features = save = load = num_parameters = finetune_bytes = None  # type: ignore[assignment]

    with pytest.raises(MemberFailed, match="no weights that could be averaged"):
        Trees().state(None)  # type: ignore[arg-type]
