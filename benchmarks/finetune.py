# SPDX-License-Identifier: Apache-2.0
r"""Fine-tuning beside the usual tutorial loop: same network, rows, batch size, steps and optimizer.

The tutorial loop is PyTorch's (DataLoader with PIL transforms, fp32, `loss.item()` every step). Needs
torch, torchvision, NumPy and this checkout; CIFAR-10 where `FUSETUNE_DATA` has it, else a made-up set
of the same shape. Progress goes to the standard error, the page to the standard output:

    FUSETUNE_DATA=../shared/data PYTHONPATH=src python benchmarks/finetune.py > page.md
    PYTHONPATH=src python benchmarks/finetune.py --rows 50000 --epochs 5 --compile --profile

Shapes: N rows, B rows of a batch, H height, W width, 3 RGB channels, C classes.
"""

import argparse
import datetime
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from fusetune.data.inputs import PixelImages, decode
from fusetune.finetune.engine import Plan, Split
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.pytorch.loop import Training
from fusetune.finetune.settings import Augmentation, FineTune, Optimizer, Schedule
from fusetune.members.member import Member, Preprocess
from fusetune.predictions.targets import Targets

CLASSES = tuple("0123456789")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
MOMENTUM = 0.9
TEST_BATCH = 256
TOP_KERNELS = 12

HEAD = """\
# Fine-tuning beside the usual tutorial loop

{date}, commit {commit}, {device}, {cpus} processors ({cpu}), torch {torch}, torchvision {torchvision};
`{command}`, {minutes:.1f} min.

Both train the same network from the same initial weights on the same {rows:,} rows of {data}
(32×32), {epochs} epochs, {test:,} rows to test on; SGD with momentum {momentum} at constant rate, flips and
crops padded by 4. The tutorial loop: `DataLoader` and PIL transforms, fp32, `loss.item()`
after every step{pinned}. Ours: `fusetune.finetune` with `precision: {precision}`. They take turns within one
process. *Training* compares the seconds of all training steps, warm-up included (start of workers,
recording, compilation); *steady* the epochs after the first; *whole* everything, tests after each
epoch and checkpoints included. *Share* is the rate of floating-point operations over the rate that
a matrix product of side {side} reaches here at the same precision.
"""


@dataclass(frozen=True)
class Data:
    """Pixels and labels, and where they are from."""

    name: str
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Outcome:
    """What one training took and reached."""

    epoch_seconds: tuple[float, ...]
    whole_seconds: float
    accuracy: float
    rows: int
    precision: str = "fp32"
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Of all training steps."""
        return sum(self.epoch_seconds)

    @property
    def steady(self) -> float:
        """Median seconds of an epoch, the first one left out."""
        return statistics.median(self.epoch_seconds[1:] or self.epoch_seconds)

    @property
    def warm_up(self) -> float:
        """Seconds by which the first epoch was longer."""
        return self.epoch_seconds[0] - self.steady


def main() -> None:
    """Measure model by model, write the page."""
    options = parsed()
    start, options.commit = time.perf_counter(), options.commit or commit()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu":
        torch.set_num_threads(options.threads)
    data = cifar10(options) or made_up(options)
    say(f"data: {data.name}")
    product_rate("fp32", device)  # starts a GPU's libraries, before anyone is timed
    began, body = time.perf_counter(), []
    left = 60 * options.minutes - (began - start)
    for number, model in enumerate(options.models):
        until = began + left * (number + 1) / len(options.models)
        body.append(table_of(model, options, data, device, until))
    print(head(options, data, device, time.perf_counter() - start))
    print("\n".join(body))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["resnet18"], help="of torchvision")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--minutes", type=float, default=9, help="no seed is begun that may end later"
    )
    parser.add_argument("--device", help="cpu, cuda; default: cuda where there is one")
    parser.add_argument("--threads", type=int, default=2, help="on a CPU")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[2], help="of the tutorial's DataLoader"
    )
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--compile", action="store_true", help="ours with torch.compile as well")
    parser.add_argument(
        "--averages", action="store_true", help="ours with averages of weights as well"
    )
    parser.add_argument("--profile", action="store_true", help="what our training spends time on")
    parser.add_argument("--commit", help="where the checkout is not a git repository")
    return parser.parse_args()


def table_of(
    name: str, options: argparse.Namespace, data: Data, device: torch.device, until: float
) -> str:
    """The part of the page on one network."""
    ways: dict[str, Callable[[nn.Module, int], Outcome]] = {
        f"tutorial, {workers} workers": lambda model, seed, workers=workers: tutorial(
            model, data, settings_of(options), device, (seed, workers)
        )
        for workers in options.workers
    }
    ways["ours"] = lambda model, seed: ours(model, data, settings_of(options), device, seed)
    if options.compile:
        compiled = replace(settings_of(options), compile=True)
        ways["ours, compiled"] = lambda model, seed: ours(model, data, compiled, device, seed)
    if options.averages:
        averaged = replace(settings_of(options), ema=0.98)
        ways["ours, averages"] = lambda model, seed: ours(model, data, averaged, device, seed)
    found: dict[str, list[Outcome]] = {way: [] for way in ways}
    for seed in range(options.seeds):
        before = time.perf_counter()
        for way in list(ways)[:: 1 if seed % 2 == 0 else -1]:  # who goes first changes
            model = network(name, seed)
            found[way].append(ways[way](model, seed))
            say(f"{name}, seed {seed}, {way}: {found[way][-1]}")
        now = time.perf_counter()
        if now + (now - before) > until:
            break
    work = operations_per_row(network(name, 0))
    text = f"\n## {name}, batches of {options.batch}\n\n{rows_of(found, work, device)}"
    if options.profile:
        for compiled in [False, True] if options.compile else [False]:
            settings = replace(settings_of(options), compile=compiled)
            text += profiled(network(name, 0), data, settings, device)
    return text


def settings_of(options: argparse.Namespace) -> FineTune:
    """Ours, set to what the tutorial loop does."""
    return FineTune(
        epochs=options.epochs,
        batch_size=options.batch,
        clip_norm=None,
        ema=0,
        label_smoothing=0,
        precision=options.precision,
        optimizer=Optimizer(name="sgd", lr=options.lr, momentum=MOMENTUM, weight_decay=0.0),
        schedule=Schedule(name="constant", warmup=0.0),
        augmentation=Augmentation(flip=True, crop_padding=4),
    )


class Pictures(Dataset):
    """As torchvision.datasets.CIFAR10: pixels in memory, one PIL image at a time."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, transform: Any) -> None:
        self.pixels, self.labels, self.transform = pixels, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.pixels[row])), int(self.labels[row])


def tutorial(
    model: nn.Module,
    data: Data,
    settings: FineTune,
    device: torch.device,
    seed_and_workers: tuple[int, int],
) -> Outcome:
    """The loop of PyTorch's tutorial on classifying CIFAR-10, tested after every epoch."""
    seed, workers = seed_and_workers
    torch.manual_seed(seed)
    normalize = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    changes = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    loading = {
        "num_workers": workers,
        "pin_memory": device.type == "cuda",
        "persistent_workers": workers > 0,
    }
    train = Pictures(*data.train, transforms.Compose([*changes, *normalize]))
    test = Pictures(*data.test, transforms.Compose(normalize))
    trainloader = DataLoader(train, batch_size=settings.batch_size, shuffle=True, **loading)
    testloader = DataLoader(test, batch_size=TEST_BATCH, **loading)
    start = time.perf_counter()
    model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings.optimizer.peak_lr(), momentum=MOMENTUM
    )
    epoch_seconds, accuracy = [], 0.0
    for _ in range(settings.epochs):
        before = time.perf_counter()
        model.train()
        running_loss = 0.0
        for images, labels in trainloader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        epoch_seconds.append(time.perf_counter() - before)
        model.eval()
        correct = 0
        with torch.no_grad():
            for images, labels in testloader:
                predicted = model(images.to(device)).argmax(1)
                correct += (predicted == labels.to(device)).sum().item()
        accuracy = correct / len(test)
    whole = time.perf_counter() - start
    return Outcome(tuple(epoch_seconds), whole, accuracy, len(train))


def ours(
    model: nn.Module, data: Data, settings: FineTune, device: torch.device, seed: int
) -> Outcome:
    """The engine's own loop, checkpoints and validation included."""
    start = time.perf_counter()
    training = training_of(model, data, settings, device, seed)
    with tempfile.TemporaryDirectory() as folder:
        history = training.run(Path(folder), lambda event: None)
    whole = time.perf_counter() - start
    rows = len(data.train[1])
    return Outcome(
        tuple(rows / epoch["images_per_second"] for epoch in history.epochs),
        whole,
        history.epochs[-1]["validation_accuracy"],
        rows,
        history.precision,
        history.notes,
    )


def training_of(
    model: nn.Module, data: Data, settings: FineTune, device: torch.device, seed: int
) -> Training:
    """Ours, ready to run."""
    torch.compiler.reset()
    preprocess = Preprocess(size=32, mean=MEAN, std=STD)
    member = Member(model=model, engine="torch", classes=CLASSES, preprocess=preprocess, head=())
    splits = split("train", *data.train), split("test", *data.test)
    return Training(member, Plan(Classification(), settings, seed), splits, device)


def split(name: str, pixels: np.ndarray, labels: np.ndarray) -> Split:
    """Rows as the engine takes them."""
    ids = np.array([f"{name}-{row}" for row in range(len(labels))])
    return Split(PixelImages(pixels), Targets(ids, CLASSES, labels))


def network(name: str, seed: int) -> nn.Module:
    """A network of torchvision with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torchvision.models.get_model(name, weights=None, num_classes=len(CLASSES))


def rows_of(found: Mapping[str, list[Outcome]], work: float, device: torch.device) -> str:
    """The table of one network."""
    lines = [
        "| | precision | images/s, steady | share | accuracy per seed | warm-up s | training, ratio per seed (median) | steady, ratio | whole, ratio | break-even |",
        "| --- | --- | ---: | ---: | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    base = next(iter(found.values()))
    for way, outcomes in found.items():
        rate = statistics.median(o.rows / o.steady for o in outcomes)
        share = rate * work / product_rate(outcomes[0].precision, device)
        accuracies = ", ".join(f"{100 * o.accuracy:.1f}" for o in outcomes)
        warm_up = statistics.median(o.warm_up for o in outcomes)
        cells = [way, outcomes[0].precision, f"{rate:,.0f}", f"{share:.1%}"]
        cells += [accuracies, f"{warm_up:.1f}"]
        if outcomes is base:
            cells += ["1", "1", "1", ""]
        else:
            pairs = list(zip(base, outcomes, strict=True))
            ratios = [b.seconds / o.seconds for b, o in pairs]
            steady = statistics.median(b.steady / o.steady for b, o in pairs)
            whole = statistics.median(b.whole_seconds / o.whole_seconds for b, o in pairs)
            gained = statistics.median(b.steady - o.steady for b, o in pairs)
            even = f"{max(0.0, warm_up) / gained:.1f} epochs" if gained > 0 else "never"
            median = statistics.median(ratios)
            per_seed = ", ".join(f"{r:.2f}" for r in ratios)
            cells += [f"{per_seed} (**{median:.2f}**)", f"{steady:.2f}", f"{whole:.2f}", even]
        lines.append("| " + " | ".join(cells) + " |")
    notes = {note for outcomes in found.values() for o in outcomes for note in o.notes}
    return "\n".join([*lines, "", *sorted(notes)]) + "\n"


def profiled(model: nn.Module, data: Data, settings: FineTune, device: torch.device) -> str:
    """Which kernels one epoch of ours spends its time on, after two epochs of warm-up."""
    from torch.profiler import ProfilerActivity, profile

    training = training_of(model, data, replace(settings, epochs=3), device, 0)
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    profiler = profile(activities=activities)

    def listen(event: Mapping[str, Any]) -> None:
        if event.get("end_of_epoch") and event["epoch"] == 2:
            profiler.start()
        elif not event.get("end_of_epoch") and event["done"] > 0.999:
            profiler.stop()

    with tempfile.TemporaryDirectory() as folder:
        history = training.run(Path(folder), listen)
    events = profiler.key_averages()
    kind = "device" if device.type == "cuda" else "cpu"
    kernels = [e for e in events if kind == "cpu" or str(e.device_type).endswith("CUDA")]
    times = {e.key: (getattr(e, f"self_{kind}_time_total") / 1e3, e.count) for e in kernels}
    busy = sum(milliseconds for milliseconds, _ in times.values())
    total = 1e3 * len(data.train[1]) / history.epochs[-1]["images_per_second"]
    lines = [
        f"\nProfile of an epoch of ours{', compiled' if settings.compile else ''}: "
        f"{total:.0f} ms under the profiler, of which kernels run {busy:.0f} ms.\n",
        "| kernel | calls | ms | share |",
        "| --- | ---: | ---: | ---: |",
    ]
    top = sorted(times.items(), key=lambda item: -item[1][0])[:TOP_KERNELS]
    for name, (milliseconds, calls) in top:
        share = milliseconds / busy
        lines.append(f"| `{name[:100]}` | {calls:,} | {milliseconds:.1f} | {share:.1%} |")
    return "\n".join(lines) + "\n"


def operations_per_row(model: nn.Module) -> float:
    """Floating-point operations of a forward and a backward pass, per row."""
    images = torch.zeros(2, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(images).sum().backward()
    return counter.get_total_flops() / len(images)


def product_rate(precision: str, device: torch.device) -> float:
    """Operations per second of the best of some square matrix products."""
    side = side_of(device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one, two = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        synchronize(device)
        before = time.perf_counter()
        one @ two
        synchronize(device)
        best = min(best, time.perf_counter() - before)
    return 2 * side**3 / best


def side_of(device: torch.device) -> int:
    """Of the matrices that say how fast the machine is."""
    return 8192 if device.type == "cuda" else 2048


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def cifar10(options: argparse.Namespace) -> Data | None:
    """CIFAR-10, decoded once for both; None where it is not."""
    folder = Path(os.environ.get("FUSETUNE_DATA", "../shared/data")) / "cifar10"
    if not (folder / "jpeg_train.parquet").exists():
        return None
    import pyarrow.parquet as pq

    def read(role: str, num: int) -> tuple[np.ndarray, np.ndarray]:
        table = pq.read_table(folder / f"jpeg_{role}.parquet", columns=["image", "label"])
        rows = np.random.default_rng(0).permutation(len(table))[:num]
        table = table.take(rows)
        pixels = [decode(image["bytes"]) for image in table["image"].to_pylist()]
        return np.stack(pixels), table["label"].to_numpy().astype(np.int64)

    return Data("CIFAR-10", read("train", options.rows), read("test", options.test_rows))


def made_up(options: argparse.Namespace) -> Data:
    """Ten classes of textures: each picture shows one of its class's eight, shifted, and less of another."""
    random = np.random.default_rng(0)
    frequencies = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)[None, :])
    envelope = np.exp(-((frequencies / 0.12) ** 2))
    noise = random.normal(size=(10, 8, 3, 32, 32))
    textures = np.fft.ifft2(np.fft.fft2(noise) * envelope).real.transpose(0, 1, 3, 4, 2)
    textures = (textures / textures.std(axis=(2, 3, 4), keepdims=True)).astype(np.float32)

    def draw(num: int) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.empty((num, 32, 32, 3), np.uint8)
        labels = np.arange(num) % 10
        for start in range(0, num, 5000):
            some = labels[start : start + 5000]
            share = random.uniform(0.4, 0.8, (len(some), 1, 1, 1)).astype(np.float32)
            mixed = share * shifted(some) + (1 - share) * shifted(random.permutation(some))
            mixed += 0.5 * random.normal(size=mixed.shape).astype(np.float32)
            pixels[start : start + 5000] = (128 + 50 * mixed).clip(0, 255)
        return pixels, labels

    def shifted(labels: np.ndarray) -> np.ndarray:
        which = random.integers(0, 8, len(labels))[:, None, None]
        ys, xs = (random.integers(0, 32, (2, len(labels), 1)) + np.arange(32)) % 32
        return textures[labels[:, None, None], which, ys[:, :, None], xs[:, None, :]]

    name = "a made-up set (ten classes of noisy textures, the shape of CIFAR-10)"
    return Data(name, draw(options.rows), draw(options.test_rows))


def head(options: argparse.Namespace, data: Data, device: torch.device, seconds: float) -> str:
    """The page's first lines: what was measured where."""
    on_gpu = device.type == "cuda"
    return HEAD.format(
        date=datetime.date.today(),
        commit=options.commit,
        device=torch.cuda.get_device_name(device) if on_gpu else "no GPU (not run on a GPU)",
        cpus=os.cpu_count(),
        cpu=processor(),
        torch=torch.__version__,
        torchvision=torchvision.__version__,
        command=shlex.join(["python", *sys.argv]),
        minutes=seconds / 60,
        rows=len(data.train[1]),
        data=data.name,
        epochs=options.epochs,
        test=len(data.test[1]),
        momentum=MOMENTUM,
        pinned=", pinned memory" if on_gpu else "",
        precision=options.precision,
        side=side_of(device),
    )


def commit() -> str:
    """The checkout's commit, marked if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def processor() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
