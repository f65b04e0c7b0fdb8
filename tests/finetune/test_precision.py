# SPDX-License-Identifier: Apache-2.0
"""Which precision `auto` means, and that a resumed run keeps it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fusetune.data.inputs import PixelImages
from fusetune.finetune.engine import Plan, Split
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.pytorch import loop as torch_loop
from fusetune.finetune.pytorch import precision as torch_precision
from fusetune.finetune.pytorch.graphs import StepGraphs
from fusetune.finetune.pytorch.loop import Training
from fusetune.finetune.pytorch.precision import chosen_precision
from fusetune.finetune.settings import FineTune
from fusetune.members.member import Member, Preprocess
from fusetune.predictions.targets import Targets

CPU = torch.device("cpu")
LARGE, SMALL = nn.Linear(1000, 1001), nn.Linear(10, 10)
GROUPED = nn.Sequential(nn.Linear(1000, 1001), nn.Conv2d(8, 8, 3, groups=8))


@pytest.mark.parametrize(
    ("model", "has_bf16", "expected"),
    [(LARGE, True, "bf16"), (LARGE, False, "fp32"), (SMALL, True, "fp32"), (GROUPED, True, "fp32")],
)
def test_auto_on_a_cpu_takes_bf16_for_large_dense_networks(
    model: nn.Module, has_bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_precision, "cpu_multiplies_bf16", lambda: has_bf16)
    assert chosen_precision(FineTune(), model, CPU) == expected
    assert chosen_precision(FineTune(precision="fp32"), model, CPU) == "fp32"
    assert chosen_precision(FineTune(precision="bf16"), model, CPU) == "bf16"


def test_bf16_multiplies_in_bf16_and_fp32_does_not() -> None:
    for precision, expected in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with torch_precision.autocast(precision, CPU):
            assert SMALL(torch.ones(1, 10)).dtype == expected


def test_a_resumed_run_keeps_the_precision_that_it_began_with(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training.state.precision = "bf16"
    training.prepare(None)
    training.save(tmp_path / "checkpoint.pt")
    training.state = torch_loop.State(precision="fp32")
    training.restore(tmp_path / "checkpoint.pt", lambda event: None)
    assert training.state.precision == "bf16"


@pytest.fixture
def training() -> Training:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))
    preprocess = Preprocess(size=8, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    member = Member(
        model=model, engine="torch", classes=("a", "b"), preprocess=preprocess, head=("3",)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    targets = Targets(np.array([str(i) for i in range(20)]), ("a", "b"), np.arange(20) % 2)
    split = Split(PixelImages(pixels), targets)
    plan = Plan(Classification(), FineTune(epochs=1, batch_size=8), 0)
    return Training(member, plan, (split, split), CPU)


def test_bf16_learns_too(training: Training, tmp_path: Path) -> None:
    training.state.precision = "bf16"
    history = training.run(tmp_path, lambda event: None)
    assert history.precision == "bf16"
    assert history.notes == ()


def test_without_a_stream_steps_are_run_as_they_are() -> None:
    done = []
    graphs = StepGraphs(lambda rows: done.append(rows.tolist()), None)
    for _ in range(5):
        graphs(torch.arange(3))
    assert done == [[0, 1, 2]] * 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_recorded_steps_do_what_steps_do() -> None:
    device = torch.device("cuda")
    sums = torch.zeros(2, device=device)
    values = torch.arange(10.0, device=device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.default_stream(device))
    with torch.cuda.stream(stream):
        graphs = StepGraphs(lambda rows: sums[:1].add_(values[rows].sum()), stream)
        for step in range(8):
            graphs(torch.tensor([step, step + 1], device=device))
    torch.cuda.synchronize()
    assert graphs.notes == []
    assert float(sums[0]) == sum(2 * step + 1 for step in range(8))
