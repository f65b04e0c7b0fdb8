# SPDX-License-Identifier: Apache-2.0
"""Photos are decoded once for all steps of one working size; too many of them, batch by batch."""

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fusetune.data.inputs import ChosenImages, Encoded, EncodedImages, PixelImages
from fusetune.data.prepare import Prepared, load_prepared
from fusetune.finetune.batches import PixelStore
from fusetune.finetune.engine import Plan
from fusetune.finetune.objectives.classification import Classification
from fusetune.finetune.pixel_cache import BLOCK, with_pixels
from fusetune.finetune.pytorch.inputs import Feed
from fusetune.finetune.settings import FineTune
from fusetune.finetune.steps import Finetuned, finetune_member, predict_member
from fusetune.members.member import Preprocess
from fusetune.members.sources.mini import Mini
from fusetune.predictions.targets import Targets
from fusetune.store.artifact import Step

NUM = 60
PREPROCESS = Preprocess(size=16, resize=20, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
RESNET = Mini(model="resnet")
PLAN = Plan(Classification(), FineTune(epochs=2, batch_size=8), seed=3)


def silent(event: Any) -> None:
    """Progress is not looked at."""


def photos(num: int) -> EncodedImages:
    """PNG files of two sizes, darker and lighter ones."""
    random, files = np.random.default_rng(0), []
    for row in range(num):
        shape = (30, 40, 3) if row % 3 else (50, 36, 3)
        pixels = random.normal(100 + 60 * (row % 2), 30, shape).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "png")
        files.append(file.getvalue())
    return EncodedImages.of(files)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The artifact of stored rows."""
    ids = np.array([f"row-{row:03}" for row in range(NUM)])
    roles = np.array(["train", "train", "validation", "holdout", "test"] * (NUM // 5))
    truth = Targets(ids, ("dark", "light"), np.arange(NUM) % 2)
    step = Step(tmp_path / "steps", "data", {"rows": 1})
    Prepared(photos(NUM), truth, roles).save(step.begin())
    return step.finish().folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that are decoded, in their order."""
    rows: list[int] = []
    pixels = EncodedImages.pixels

    def noted(self: EncodedImages, row: int) -> Any:
        rows.append(row)
        return pixels(self, row)

    monkeypatch.setattr(EncodedImages, "pixels", noted)
    return rows


def seen(data: Path, preprocess: Preprocess = PREPROCESS, report: Any = silent) -> Prepared:
    return with_pixels(load_prepared(data), preprocess, data, report).prepared


def all_pixels(prepared: Prepared, preprocess: Preprocess = PREPROCESS) -> np.ndarray:
    return PixelStore(prepared.images, preprocess).batch(np.arange(len(prepared)))


def caches(data: Path) -> list[str]:
    return sorted(path.name for path in data.parent.glob("pixels-*"))


def test_pixels_are_decoded_once_and_mapped(data: Path, decoded: list[int]) -> None:
    expected = all_pixels(load_prepared(data))
    decoded.clear()
    first = seen(data)
    assert sorted(decoded) == list(range(NUM))
    decoded.clear()
    assert isinstance(first.images, ChosenImages)
    assert isinstance(first.images.base.pixels_NHW3, np.memmap)
    np.testing.assert_array_equal(all_pixels(first), expected)
    rows = first.rows("holdout")
    taken = PixelStore(first.images.take(rows), PREPROCESS)
    assert taken.is_decoded and taken.num_bytes == len(rows) * 16 * 16 * 3
    np.testing.assert_array_equal(taken.batch(np.array([2, 0])), expected[rows[[2, 0]]])
    other_colors = replace(PREPROCESS, mean=(0.1, 0.2, 0.3), test_flip=True)
    np.testing.assert_array_equal(all_pixels(seen(data, other_colors)), expected)
    assert decoded == []
    assert len(caches(data)) == 1


@pytest.mark.parametrize(
    "change", [{"size": 12}, {"resize": None}, {"squash": True}, {"interpolation": "nearest"}]
)
def test_another_working_size_is_another_file(data: Path, change: dict[str, Any]) -> None:
    seen(data)
    other = replace(PREPROCESS, **change)
    made = seen(data, other)
    assert len(caches(data)) == 2
    np.testing.assert_array_equal(all_pixels(made, other), all_pixels(load_prepared(data), other))


def test_damaged_pixels_are_found_and_made_again(
    data: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = all_pixels(seen(data))
    (folder,) = data.parent.glob("pixels-*")
    content = bytearray((folder / "pixels.npy").read_bytes())
    content[-1] ^= 1
    (folder / "pixels.npy").write_bytes(bytes(content))
    monkeypatch.setattr("fusetune.finetune.pixel_cache._whole", set())  # another process
    decoded.clear()
    events: list[Any] = []
    np.testing.assert_array_equal(all_pixels(seen(data, report=events.append)), expected)
    assert events[0] == {"phase": "damaged", "file": "pixels.npy"}
    assert len(decoded) == NUM


def test_two_at_a_time_decode_once(data: Path, decoded: list[int]) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(seen, [data, data])
    assert len(decoded) == NUM
    np.testing.assert_array_equal(all_pixels(first), all_pixels(second))


class Killed(Exception):
    """Ends the work in the middle."""


def test_what_a_kill_left_is_not_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusetune.finetune.pixel_cache.BLOCK", 16)

    def kill(event: Any) -> None:
        if event["phase"] == "pixels" and event["done"] > 0.5:
            raise Killed

    with pytest.raises(Killed):
        seen(data, report=kill)
    (folder,) = data.parent.glob("pixels-*")
    left = (folder / "pixels.npy").stat().st_size
    assert 0 < left < NUM * 16 * 16 * 3
    np.testing.assert_array_equal(all_pixels(seen(data)), all_pixels(load_prepared(data)))
    assert (folder / "pixels.npy").stat().st_size == NUM * 16 * 16 * 3 + 128
    assert BLOCK > 16


@pytest.mark.parametrize("lacking", ["memory", "disk"])
def test_too_many_images_stay_encoded(
    data: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    expected = all_pixels(seen(data))
    for cache in data.parent.glob("pixels-*"):
        for file in cache.iterdir():
            file.unlink()
        cache.rmdir()
    if lacking == "memory":
        monkeypatch.setattr("fusetune.finetune.batches.available_bytes", lambda: 50_000)
    else:
        usage = type("Usage", (), {"free": 80_000})
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    prepared = seen(data)
    assert caches(data) == []
    assert isinstance(prepared.images.base, Encoded)
    store = PixelStore(prepared.images, PREPROCESS)
    assert (store.num_bytes is None) == (lacking == "memory")
    for _ in range(2):
        np.testing.assert_array_equal(store.batch(np.arange(NUM)), expected)
    assert store.is_decoded == (lacking == "disk")  # in memory then, as long as the step runs


def test_images_that_need_no_fitting_and_folders_that_are_no_artifact_keep_nothing(
    data: Path, tmp_path: Path
) -> None:
    small = PixelImages(np.zeros((NUM, 8, 8, 3), np.uint8))
    prepared = replace(load_prepared(data), images=small)
    assert with_pixels(prepared, PREPROCESS, data, silent).prepared.images.base is small
    (tmp_path / "plain").mkdir()
    load_prepared(data).save(tmp_path / "plain")
    assert isinstance(seen(tmp_path / "plain").images.base, Encoded)
    assert caches(data) == []


def test_a_batch_is_decoded_while_the_one_before_is_worked_on() -> None:
    images, started = photos(12), threading.Event()
    store = PixelStore(images, PREPROCESS)
    store._cache = None  # as where they are too many
    batch = store.batch

    def noted(rows: Any) -> Any:
        if rows[0] == 4:
            started.set()
        return batch(rows)

    store.batch = noted
    slices = [np.arange(start, start + 4) for start in (0, 4, 8)]
    expected = [batch(rows) for rows in slices]
    for index, pixels in enumerate(Feed(store, torch.device("cpu")).batches(slices)):
        assert started.wait(timeout=30)  # before the next batch is asked for
        np.testing.assert_array_equal(pixels.numpy(), expected[index])


def made(folder: Path, data: Path) -> dict[str, bytes]:
    """Fine-tuned weights and predictions."""
    for name in ("weights", "predicted"):
        (folder / name).mkdir(parents=True)
    finetune_member(folder / "weights", RESNET, data, PLAN, silent)
    kept = Finetuned(folder / "weights" / "weights.safetensors")
    predict_member(folder / "predicted", RESNET, data, kept, Classification(), silent)
    files = [*folder.glob("*/*.safetensors"), *folder.glob("*/*.parquet")]
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.slow
def test_steps_decode_together_and_end_as_they_would_alone(
    data: Path, tmp_path: Path, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = made(tmp_path / "a", data)
    assert sorted(decoded) == list(range(NUM))
    again = made(tmp_path / "b", data)
    assert len(decoded) == NUM
    cost = json.loads((tmp_path / "b" / "predicted" / "cost.json").read_text())
    (pixels,) = data.parent.glob("pixels-*/cost.json")
    assert cost["predict_per_row"] > json.loads(pixels.read_text())["decode_per_row"] > 0
    monkeypatch.setattr("fusetune.finetune.batches.available_bytes", lambda: 0)
    streamed = made(tmp_path / "c", data)
    assert len(decoded) > 2 * NUM
    assert kept == again == streamed
