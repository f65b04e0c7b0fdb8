# SPDX-License-Identifier: Apache-2.0
"""Images decoded, resized and cropped once for all steps that want them at one size.

They lie beside the stored rows as an artifact of their own, named by the images' content and the
working size, so that members, and runs that go on, share it. It is memory-mapped: what is not read
takes no memory, and the system keeps of it what it has room for.

Shapes: N images, S pixels of a side, 3 RGB channels.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fusetune.data.inputs import ChosenImages, Images, PixelImages
from fusetune.data.prepare import Prepared
from fusetune.finetune.batches import fitted, is_fitted, num_decoders, room_for_pixels
from fusetune.finetune.engine import Report
from fusetune.members.member import Preprocess
from fusetune.store.alone import alone
from fusetune.store.artifact import MANIFEST, Step, write_json

__all__ = ["Seen", "with_pixels"]

DISK_SHARE = 0.25
"""Of the free disk: checkpoints, weights and the other working sizes need room, too."""
BLOCK = 256  # rows that are decoded before they are written
FILE = "pixels.npy"
COST = "cost.json"
DATA_FILES = ("pixels.npy", "data.npy", "offsets.npy")

_whole: set[tuple[Path, int, int]] = set()
"""Files whose checksums this process has read: folder, time of change in ns, bytes."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Rows as a member's steps read them.

    Args:
        prepared: Their images at the member's working size, where they are kept so.
        decode_per_row: Seconds that this took, when it was done; 0 where they still are encoded, so
            that what is measured includes it.
    """

    prepared: Prepared
    decode_per_row: float = 0.0


def with_pixels(prepared: Prepared, preprocess: Preprocess, data: Path, report: Report) -> Seen:
    """The same rows, their images at a member's working size, where these fit memory and disk.

    Images that are all of one size and no larger stay as they are. Those of which there are too
    many stay encoded: they are decoded in every epoch, while the batch before is trained on.

    Args:
        prepared: As `load_prepared` gives them.
        preprocess: The member's own.
        data: The folder of the stored rows, a finished artifact, or of a fold in it; of any other
            nothing is kept.
        report: Takes progress events.

    Cost:
        The first time, decoding every image; every time, reading the file once for its checksum.
    """
    images = prepared.images
    everything = ChosenImages(images, np.arange(len(images)))
    if is_fitted(images, preprocess) or not _has_room(len(images), preprocess, data):
        return Seen(replace(prepared, images=everything))
    if not (data / MANIFEST).exists():
        data = data.parent  # of a fold's roles
    if (content := _content(data)) is None:
        return Seen(replace(prepared, images=everything))
    step = Step(
        data.parent,
        f"pixels-{preprocess.size}",
        {
            "images": content,
            "resize": [
                preprocess.size,
                "letterbox" if preprocess.letterbox else preprocess.resize,
                preprocess.squash,
            ],
            "interpolation": preprocess.interpolation,
        },
    )
    with alone(step.root, step.folder.name):
        if not _is_whole(step):
            _make(step, images, preprocess, report)
    pixels = PixelImages(np.load(step.folder / FILE, mmap_mode="r"))
    cost = json.loads((step.folder / COST).read_text(encoding="utf-8"))
    chosen = ChosenImages(pixels, np.arange(len(images)))
    return Seen(replace(prepared, images=chosen), cost["decode_per_row"])


def _make(step: Step, images: Images, preprocess: Preprocess, report: Report) -> None:
    if step.promised() is not None:
        report({"phase": "damaged", "file": FILE})
    folder, before = step.begin(), time.perf_counter()
    _write(folder / FILE, images, preprocess, report)
    per_row = (time.perf_counter() - before) / max(1, len(images))
    write_json(folder / COST, {"decode_per_row": per_row})
    step.finish()


def _has_room(num: int, preprocess: Preprocess, data: Path) -> bool:
    size = num * preprocess.size**2 * 3
    free = shutil.disk_usage(data).free
    return size <= room_for_pixels() and size <= DISK_SHARE * free


def _content(data: Path) -> dict[str, str] | None:
    """Checksums of the files of images; None if the folder is no artifact."""
    if not (data / MANIFEST).exists():
        return None
    files = json.loads((data / MANIFEST).read_text(encoding="utf-8"))["files"]
    return {name: files[name] for name in DATA_FILES if name in files}


def _is_whole(step: Step) -> bool:
    """True if the files are there with their checksums, which one process reads once."""
    try:
        status = (step.folder / FILE).stat()
    except OSError:
        return False
    key = (step.folder, status.st_mtime_ns, status.st_size)
    if key not in _whole and step.finished() is not None:
        _whole.add(key)
    return key in _whole


def _write(path: Path, images: Images, preprocess: Preprocess, report: Report) -> None:
    """All images one after another: on a full disk a memory map would end the process."""
    shape = (len(images), preprocess.size, preprocess.size, 3)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with path.open("wb") as file, ThreadPoolExecutor(num_decoders()) as pool:
        np.lib.format.write_array_header_1_0(file, header)
        for rows in _blocks(len(images)):
            report({"phase": "pixels", "done": rows.start / len(images)})
            made = pool.map(lambda row: fitted(images.pixels(row), preprocess), rows)
            file.writelines(np.ascontiguousarray(pixels).data for pixels in made)
        file.flush()
        os.fsync(file.fileno())


def _blocks(num: int) -> Iterator[range]:
    for start in range(0, num, BLOCK):
        yield range(start, min(start + BLOCK, num))
