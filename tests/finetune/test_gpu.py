# SPDX-License-Identifier: Apache-2.0
"""What fine-tuning does on a GPU: the same as on a CPU; on a pretended one here, and on a real one."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fusetune.data.datasets.scenes import Scenes
from fusetune.data.inputs import EncodedImages, PixelImages
from fusetune.finetune.batches import PixelStore
from fusetune.finetune.engine import History, Plan, Split
from fusetune.finetune.engines import torch as torch_engine
from fusetune.finetune.engines.torch import Torch
from fusetune.finetune.objective import Objective
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.objectives.detection import Detection
from fusetune.finetune.objectives.multilabel import Multilabel
from fusetune.finetune.objectives.regression import Regression
from fusetune.finetune.objectives.segmentation import Segmentation
from fusetune.finetune.pytorch import graphs
from fusetune.finetune.pytorch.augment import augmented, epoch_draws
from fusetune.finetune.pytorch.graphs import StepGraphs, own_stream
from fusetune.finetune.pytorch.inputs import Feed
from fusetune.finetune.randomness import row_keys
from fusetune.finetune.settings import Augmentation, Distill, Lora, Optimizer
from fusetune.members.member import Member, PreprocessOverride
from fusetune.members.sources.mini_detection import MiniDetection
from fusetune.members.sources.mini_segmentation import MiniSegmentation
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.targets import LabelSets, Numbers
from pretended_gpu import GPU, NotOnDevice, pretended_gpu
from small_rows import png
from small_runs import CLASSES, PREPROCESS, SETTINGS, SPLITS, Stopped, member, untimed

CPU = torch.device("cpu")
RANDOM = np.random.default_rng(0)
IDS, IMAGES = SPLITS[0].ids, SPLITS[0].images
NUMBERS = Split(IMAGES, Numbers(IDS, CLASSES, RANDOM.normal(size=(40, 2))))
SETS = Split(IMAGES, LabelSets(IDS, CLASSES, RANDOM.random((40, 2)) < 0.5))
MAPS = Split(
    PixelImages(RANDOM.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)),
    LabelMaps.from_arrays(
        IDS[:12],
        ("a", "b", "c"),
        list(RANDOM.integers(-1, 3, (12, 8, 8)).repeat(4, 1).repeat(4, 2)),
    ),
)
PLAIN = replace(SETTINGS, epochs=2, precision="fp32")
STILL = Augmentation(flip=False)
MIXED = Augmentation(
    flip=True,
    crop_padding=1,
    resized_crop=0.5,
    rand_augment=2,
    cutout=2,
    color_jitter=0.2,
    mixup=0.2,
    cutmix=1.0,
)
MOVED = Augmentation(flip=True, crop_padding=2, resized_crop=0.6, color_jitter=0.1, cutout=3)


def segmenter() -> Member:
    source = MiniSegmentation(model="resnet_fpn", preprocess=PreprocessOverride(size=32))
    return source.load(("a", "b", "c"), seed=1)


def scenes() -> Split:
    rows = Scenes(num_images=12, size=32).read_as(Objects)
    return Split(rows.images, rows.truth)


def detector() -> Member:
    source = MiniDetection(model="inception", preprocess=PreprocessOverride(size=32))
    return source.load(scenes().targets.classes, seed=1)


@dataclass(frozen=True)
class Case:
    """One way to train."""

    settings: dict[str, Any]
    objective: Objective[Any] = field(default_factory=Classification)
    splits: Callable[[], tuple[Split, Split]] = lambda: SPLITS
    make: Callable[[], Member] = member


ADAMW = Optimizer(name="adamw", lr=1e-4)
CASES = {
    "averages": Case({}),
    "swa": Case({"swa": 0.5}),
    "adamw": Case({"optimizer": ADAMW, "clip_norm": 0.5, "layer_decay": 0.8}),
    "range_test": Case({"optimizer": Optimizer(name="sgd", lr="range_test")}),
    "lora": Case({"train": "lora", "lora": Lora(rank=2, alpha=8)}),
    "mixed": Case({"augmentation": MIXED, "label_smoothing": 0.1, "class_weights": "balanced"}),
    "taught": Case({"augmentation": MIXED, "distill": Distill(teacher="teacher")}),
    "probe": Case({"train": "probe_then_full", "augmentation": STILL}),
    "head_then_full": Case({"train": "head_then_full", "head_epochs": 1, "augmentation": STILL}),
    "numbers": Case(
        {"distill": Distill(teacher="teacher")}, Regression(), lambda: (NUMBERS, NUMBERS)
    ),
    "sets": Case(
        {"class_weights": "balanced", "augmentation": Augmentation(mixup=0.2)},
        Multilabel(),
        lambda: (SETS, SETS),
    ),
    "maps": Case(
        {
            "batch_size": 2,
            "augmentation": replace(MOVED, crop=24),
            "class_weights": "balanced",
            "label_smoothing": 0.1,
        },
        Segmentation(),
        lambda: (MAPS, MAPS),
        segmenter,
    ),
    "boxes": Case(
        {"batch_size": 2, "augmentation": MOVED, "optimizer": Optimizer(name="sgd", lr=1e-3)},
        Detection(),
        lambda: (scenes(), scenes()),
        detector,
    ),
}
WITHOUT_PEFT = importlib.util.find_spec("peft") is None
LORA = [pytest.mark.slow, pytest.mark.skipif(WITHOUT_PEFT, reason="peft is not installed")]
NAMES = [pytest.param(name, marks=LORA if name == "lora" else []) for name in CASES]
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@dataclass(frozen=True)
class Kind:
    """How to work on a GPU of a kind, and how near its figures have to come to those of a CPU."""

    work: Callable[..., AbstractContextManager[Any]]
    pretended: bool
    nearness: float


@contextmanager
def on_the_cpu() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_engine, "Accelerator", lambda: SimpleNamespace(device=CPU))
        yield


@contextmanager
def real_gpu(room: int | None = None) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        if room is not None:
            patch.setattr(torch.cuda, "mem_get_info", lambda device: (room, room))
        yield SimpleNamespace(holds=lambda tensor: tensor.is_cuda)


@pytest.fixture(params=["pretended", pytest.param("real", marks=[pytest.mark.gpu, NO_GPU])])
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "pretended":
        return Kind(pretended_gpu, True, 1e-4)
    return Kind(real_gpu, False, 0.02)


def silent(event: Any) -> None:
    pass


def without_dropout(made: Member) -> None:
    """Which a GPU draws otherwise."""
    for layer in made.model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0


def finetuned(
    case: Case, made: Member, work: Path, report: Callable[[Any], None] = silent, **more: Any
) -> History:
    settings, splits = replace(PLAIN, **{**case.settings, **more}), case.splits()
    work.mkdir(exist_ok=True)
    np.save(work / "said.npy", np.random.default_rng(1).normal(size=(40, 2)).astype(np.float32))
    teacher = work / "said.npy" if settings.distill else None
    plan = Plan(case.objective.fitted(splits[0].targets), settings, seed=3, teacher=teacher)
    return Torch().finetune(made, plan, splits, work, report)


def on_both(case: Case, kind: Kind, work: Path, room: int | None = None, **more: Any) -> Any:
    """The histories of a CPU and of a GPU, and the pretended GPU if it is one."""
    one, two = case.make(), case.make()
    if not kind.pretended:
        for made in (one, two):
            without_dropout(made)
    with on_the_cpu():
        on_cpu = finetuned(case, one, work / "cpu", **more)
    with kind.work() if room is None else kind.work(room=room) as gpu:
        on_gpu = finetuned(case, two, work / "gpu", **more)
        assert all(map(gpu.holds, two.model.parameters()))
    return on_cpu, on_gpu, gpu


def assert_alike(one: History, two: History, nearness: float) -> None:
    """Epochs too where range tests, whose losses are, found the same rate: little may decide that."""
    if one.range_test and two.range_test:
        losses = [found.losses[:60] for found in (one.range_test, two.range_test)]
        assert losses[0] == pytest.approx(losses[1], rel=nearness)
        if one.range_test.lr != two.range_test.lr:
            return
    for first, second in zip(untimed(one), untimed(two), strict=True):
        for name in ("lr", "train_loss", "validation_loss"):
            assert first[name] == pytest.approx(second[name], rel=nearness)


def unrecorded(history: History) -> list[str]:
    return [note for note in history.notes if "not recorded" in note]


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_recorded_and_figures_are_those_of_a_cpu(
    name: str, kind: Kind, tmp_path: Path
) -> None:
    on_cpu, on_gpu, gpu = on_both(CASES[name], kind, tmp_path)
    assert_alike(on_cpu, on_gpu, kind.nearness)
    assert unrecorded(on_gpu) == []
    if kind.pretended:
        assert gpu.waits == [] and gpu.replays > 3


@pytest.mark.parametrize(
    "name", ["mixed", "numbers", "sets", "maps", pytest.param("boxes", marks=pytest.mark.slow)]
)
def test_half_precision_is_near_too(name: str, kind: Kind, tmp_path: Path) -> None:
    on_cpu, on_gpu, _ = on_both(CASES[name], kind, tmp_path, precision="bf16", epochs=1)
    assert_alike(on_cpu, on_gpu, 5 * kind.nearness)
    assert unrecorded(on_gpu) == [] and on_gpu.precision == "bf16"


@pytest.mark.parametrize("name", ["averages", "head_then_full"])
def test_pixels_that_the_gpu_has_no_room_for_come_batch_by_batch(
    name: str, kind: Kind, tmp_path: Path
) -> None:
    on_cpu, on_gpu, gpu = on_both(CASES[name], kind, tmp_path, room=0)
    assert_alike(on_cpu, on_gpu, kind.nearness)
    if kind.pretended:
        assert gpu.recordings == 0


@pytest.mark.parametrize("name", ["averages", "swa", "adamw"])
def test_a_stopped_run_goes_on_where_it_was(name: str, kind: Kind, tmp_path: Path) -> None:
    def stop(event: Any) -> None:
        if event.get("end_of_epoch") and event["epoch"] == 2:
            raise Stopped

    with kind.work():
        whole = finetuned(CASES[name], member(), tmp_path / "whole", epochs=3)
        with pytest.raises(Stopped):
            finetuned(CASES[name], member(), tmp_path / "stopped", stop, epochs=3)
        again = finetuned(CASES[name], member(), tmp_path / "stopped", epochs=3)
    assert_alike(whole, again, 1e-6 if kind.pretended else 1e-3)


VIEWS = {
    "flips_and_shifts": (member, IMAGES, {"test_flip": True, "test_shift": 1}),
    "resized": (member, IMAGES, {"size": 12, "interpolation": "bicubic"}),
    "maps": (
        segmenter,
        MAPS.images,
        {"test_flip": True, "test_scales": (0.75,), "test_window": 24},
    ),
    "boxes": (detector, scenes().images, {}),
}


@pytest.mark.parametrize("name", VIEWS)
def test_predictions_are_those_of_a_cpu(name: str, kind: Kind) -> None:
    make, images, preprocess = VIEWS[name]
    said = []
    for work in (on_the_cpu, kind.work):
        made = make()
        made = replace(made, preprocess=replace(made.preprocess, **preprocess))
        with work():
            said.append(Torch().outputs(made, images, silent))
    np.testing.assert_allclose(said[1], said[0], atol=kind.nearness)


def test_features_and_statistics_are_those_of_a_cpu(kind: Kind) -> None:
    found: list[list[np.ndarray]] = []
    for work in (on_the_cpu, kind.work):
        made = member()
        with work():
            features, outputs = Torch().features(made, IMAGES, silent)
            found.append([features, outputs, Torch().head_outputs(made, features)])
            Torch().refresh_statistics(made, SPLITS[0])
            found[-1] += [v for k, v in Torch().state(made).items() if "running" in k]
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, atol=kind.nearness, rtol=kind.nearness)


def test_images_are_augmented_as_on_a_cpu(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    augmentation = replace(MIXED, rand_augment=6, mixup=0.0)
    draws = epoch_draws(row_keys(IDS), augmentation, seed=1, epoch=0)
    pixels = torch.from_numpy(IMAGES.pixels_NHW3)
    on_cpu = augmented(pixels, draws, augmentation).int()
    with kind.work():
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # the default
        on_gpu = augmented(pixels.to(GPU), draws.to(GPU), augmentation).cpu().int()
    apart = (on_cpu - on_gpu).abs()
    assert float((apart > 1).float().mean()) < 0.002  # where a rounded place is another
    assert float((apart > 0).float().mean()) < (0.02 if not kind.pretended else 1e-9)


class Waiting(nn.Module):
    """Waits for the device, as detectors do that count what they see, and then drops some."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = images.mean(dim=(2, 3))
        if float(means.detach().sum()) > 0:
            means = means * 1.5
        return self.fc(nn.functional.dropout(means, 0.1, self.training))


def waiting() -> Member:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return replace(member(), model=Waiting())


def test_steps_that_wait_for_the_gpu_are_found_out_before_they_are_recorded(
    kind: Kind, tmp_path: Path
) -> None:
    on_cpu, on_gpu, gpu = on_both(Case({}, make=waiting), kind, tmp_path)
    assert unrecorded(on_gpu) == ["steps are not recorded as CUDA graphs: they wait for the device"]
    assert_alike(on_cpu, on_gpu, 10 * kind.nearness if kind.pretended else 0.2)
    if kind.pretended:
        assert gpu.recordings == 0


def test_a_recording_that_fails_leaves_a_run_that_goes_on(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_waits_noted", lambda **on: nullcontext([]))
    on_cpu, on_gpu, gpu = on_both(Case({}, make=waiting), kind, tmp_path)
    (note,) = unrecorded(on_gpu)
    assert "captur" in note
    assert_alike(on_cpu, on_gpu, 10 * kind.nearness if kind.pretended else 0.2)
    if kind.pretended:
        assert gpu.recordings == 1 and gpu.replays == 0


def test_a_size_that_cannot_be_recorded_frees_the_records_of_others() -> None:
    def step(rows: torch.Tensor) -> None:
        if len(rows) == 3:
            float(rows[0])

    with pretended_gpu() as gpu:
        steps = StepGraphs(step, object())  # type: ignore[arg-type]
        for num in (2, 3):
            for _ in range(6):
                steps(torch.zeros(num, device=GPU))
    assert gpu.recordings == 1 and steps.notes != [] and steps._recorded == {}


def test_a_gpu_s_own_stream_takes_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: "Stream") -> None:
            done.append(f"{self.name} waits for {other.name}")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("own"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("usual"))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    with own_stream(GPU) as stream:
        done.append(f"work on {stream.name}")  # type: ignore[union-attr]
    assert done == ["own waits for usual", "work on own", "usual waits for own"]
    with own_stream(CPU) as stream:
        assert stream is None


def test_after_an_epochs_last_step_there_is_nothing_left_to_decode() -> None:
    """A checkpoint that was written there goes on with no batches."""
    images = EncodedImages.of([png(seed) for seed in range(3)])
    feed = Feed(PixelStore(images, PREPROCESS), CPU)
    assert list(feed.batches([])) == []
    assert [len(one) for one in feed.batches([np.arange(2), np.arange(2, 3)])] == [2, 1]


def test_the_pretended_gpu_refuses_what_a_gpu_refuses() -> None:
    with pretended_gpu() as gpu:
        here, there = torch.ones(2), torch.ones(2, device=GPU)
        assert there.device == GPU and here.device == CPU and there.cpu().device == CPU
        assert (there + 1).device == torch.zeros_like(there).device == GPU
        with pytest.raises(NotOnDevice):
            here + there
        with pytest.raises(NotOnDevice):
            there.numpy()
        weights = here.to(GPU).requires_grad_()
        (weights * there).sum().backward()
        assert gpu.holds(weights.grad)
        factor, graph = 3.0, torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            there *= factor
            with pytest.raises(RuntimeError, match="capturing"):
                there.sum().item()
        assert there.tolist() == [1, 1]
        factor = 5.0  # a record knows nothing of it
        graph.replay()
        graph.replay()
        assert there.tolist() == [9, 9]
