# SPDX-License-Identifier: Apache-2.0
"""Small real image classification tasks, with networks to start from, for benchmarks of fine-tuning.

`TASKS` has digits (scikit-learn's, with noise), cifar10 (recompressed as JPEG), camvid (patches of road
scenes) and spoken (spectrograms of spoken digits as images). All but the first read the folder that
FUSETUNE_DATA names.
"""

import os
import wave
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CIFAR10", "IMAGENET", "TASKS", "ImageTask"]

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
EXAMPLES = str(Path(__file__).parents[1] / "examples")
PATCH, PURE = 32, 0.8
"""Side of CamVid patches in pixels, and the least share of a patch that has its class."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ImageTask:
    """Rows, and networks to start from.

    Args:
        data: A recipe's `data:`.
        members: A recipe's `members:`, named.
        augmentation: What does not change a class here.
    """

    data: dict[str, Any]
    members: list[dict[str, Any]]
    augmentation: dict[str, Any] = field(default_factory=dict)


def digits(_: Path) -> ImageTask:
    """Noisy 8x8 digits, 260 of them to train on; the mini networks were pretrained on other shapes."""
    roles = {"train": 260, "validation": 40, "holdout": 300, "test": 1197}
    return ImageTask(
        {"source": "digits", "noise": 0.2, "roles": roles},
        [_mini(net) for net in ("resnet", "vgg")],
        {"flip": False, "crop_padding": 1},
    )


def cifar10(work: Path) -> ImageTask:
    """600 train rows, 3,334 test rows; a ResNet trained on clean CIFAR-10 and an ImageNet SqueezeNet."""
    import pyarrow.parquet

    folder = _shared()
    rows = pyarrow.parquet.ParquetFile(folder / "cifar10" / "jpeg_test.parquet").read()
    pyarrow.parquet.write_table(
        rows.take(np.arange(0, len(rows), 3)), work / "cifar10_test.parquet"
    )
    path = str(folder / "cifar10" / "jpeg_train.parquet")
    table = {"source": "table", "classes": CIFAR10}
    train = {**table, "path": path, "limit": 1200}
    test = {**table, "path": str(work / "cifar10_test.parquet")}
    roles = {"validation": 200, "holdout": 400, "duplicates": "keep_first"}
    resnet20 = {
        "name": "resnet20",
        "source": "module",
        "model": "my_nets.resnet20",
        "import_from": EXAMPLES,
        "weights": str(folder / "weights" / "resnet20_cifar10.safetensors"),
        "classes": CIFAR10,
        "preprocess": {"size": 32, **IMAGENET},
    }
    data = {"train": train, "test": test, "roles": roles}
    return ImageTask(data, [resnet20, _squeezenet()], {"flip": True, "crop_padding": 4})


def camvid(work: Path) -> ImageTask:
    """Which class fills a patch of a road scene; test patches are of other drives' images."""
    folder = _shared() / "camvid"
    names = (folder / "classes.txt").read_text(encoding="utf-8").split()
    wanted = ("sky", "building", "road", "pavement", "tree", "car")
    parts: dict[str, tuple[list[Pixels], list[str]]] = {"train": ([], []), "test": ([], [])}
    for part, (patches, labels) in parts.items():
        for image, mask in _scenes(folder, part):
            for top in range(0, image.shape[0] - PATCH + 1, PATCH // 2):
                for left in range(0, image.shape[1] - PATCH + 1, PATCH // 2):
                    window = (slice(top, top + PATCH), slice(left, left + PATCH))
                    counts = np.bincount(mask[window].ravel(), minlength=len(names) + 1)
                    name = names[best] if (best := int(counts.argmax())) < len(names) else ""
                    if name in wanted and counts[best] >= PURE * PATCH**2:
                        patches.append(image[window])
                        labels.append(name)
    data = {part: _arrays(work / f"camvid_{part}.npz", *some) for part, some in parts.items()}
    data["train"]["limit"] = 900
    roles = {"validation": 150, "holdout": 250, "duplicates": "keep_first"}
    return ImageTask(
        {**data, "roles": roles},
        [_mini("resnet"), _squeezenet(48)],
        {"flip": True, "crop_padding": 2},
    )


def spoken(work: Path) -> ImageTask:
    """1,000 spoken digits of four speakers as log spectrograms of 32x32 pixels, 300 to train on."""
    images, labels = [], []
    for path in sorted((_shared() / "fsdd").glob("*.wav")):
        images.append(_spectrogram(path))
        labels.append(path.name.split("_")[0])
    data = _arrays(work / "spoken.npz", images, labels)
    roles = {"train": 250, "validation": 50, "holdout": 100, "test": 600}
    return ImageTask(
        {**data, "roles": roles},
        [_mini("vgg"), _squeezenet(48)],
        {"flip": False, "crop_padding": 2},
    )


TASKS: dict[str, Callable[[Path], ImageTask]] = {
    "digits": digits,
    "camvid": camvid,
    "spoken": spoken,
    "cifar10": cifar10,
}
"""Name → a function that makes the task, in a folder for files."""


def _shared() -> Path:
    return Path(os.environ["FUSETUNE_DATA"]).resolve()


def _mini(net: str) -> dict[str, Any]:
    return {"name": f"mini-{net}", "source": "mini", "model": net}


def _squeezenet(size: int = 64) -> dict[str, Any]:
    weights = _shared() / "weights" / "squeezenet1_1_imagenet_features.safetensors"
    return {
        "name": "squeezenet",
        "source": "torchvision",
        "model": "squeezenet1_1",
        "weights": str(weights),
        "preprocess": {"size": size},
    }


def _arrays(path: Path, images: list[Pixels], labels: list[str]) -> dict[str, Any]:
    np.savez(path, images=np.stack(images), labels=np.array(labels))
    return {"source": "arrays", "path": str(path)}


def _scenes(folder: Path, part: str) -> list[tuple[Pixels, Pixels]]:
    from PIL import Image

    scenes = []
    folder_of = {"train": "train", "test": "val"}[part]
    for path in sorted((folder / folder_of).glob("*.png")):
        image = np.asarray(Image.open(path).convert("RGB"))
        scenes.append((image, np.asarray(Image.open(folder / f"{folder_of}_masks" / path.name))))
    return scenes


def _spectrogram(path: Path) -> Pixels:
    """`(32, 32, 3)`: decibels above -80 of the loudest, time and frequency resampled to 32 each."""
    from PIL import Image
    from scipy.signal import stft

    with wave.open(str(path)) as file:
        sound = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16) / 2**15
        rate = file.getframerate()
    power = np.abs(stft(sound, rate, nperseg=256, noverlap=192)[2]) ** 2
    decibels = 10 * np.log10(np.maximum(power, 1e-12))
    gray = np.clip((decibels - decibels.max() + 80) / 80 * 255, 0, 255).astype(np.uint8)[::-1]
    picture = Image.fromarray(gray).resize((32, 32), Image.Resampling.BILINEAR)
    return np.repeat(np.asarray(picture)[:, :, None], 3, axis=2)
