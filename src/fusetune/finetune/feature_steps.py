# SPDX-License-Identifier: Apache-2.0
"""Step function of a checkpoint, run in a worker process: rows in, what its head reads out.

Shapes: N rows, D features.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fusetune.data.inputs import Images
from fusetune.data.prepare import load_prepared
from fusetune.finetune.engine import Engine, Report
from fusetune.finetune.features import NOT_LINEAR, backbone_checksum, makes_outputs
from fusetune.finetune.pixel_cache import with_pixels
from fusetune.members.member import Member
from fusetune.members.source import Source
from fusetune.plugins import find
from fusetune.predictions.kinds import Array
from fusetune.store.artifact import write_json

__all__ = ["feature_rows"]

TRIED_ROWS = 8


def feature_rows(
    folder: Path,
    source: Source,
    data: Path,
    parts: Sequence[Array],
    known: Sequence[tuple[Path, float]],
    report: Report,
) -> None:
    """Features of some rows, by the checkpoint as it is.

    Args:
        folder: To write into.
        source: The checkpoint.
        data: Folder of the prepared rows.
        parts: Positions among all rows; each part is run through the model by itself.
        known: Features of the first parts that were computed before, and the seconds that each of
            their rows took.
        report: Takes progress events.

    Writes:
        `features.npy`, `(N, D)` float32, with `rows.npy`, their positions, ascending; and
        `about.json`: `why_not`, the reason why there are none, else null; `backbone`, the checksum
        of the weights that made them; and `seconds_per_row`.
    """
    prepared = load_prepared(data)
    member = source.load(prepared.classes)
    seen = with_pixels(prepared, member.preprocess, data, report)
    images = seen.prepared.images
    engine = find(Engine, member.engine)()
    if why_not := _why_not(engine, member, images, report):
        write_json(folder / "about.json", {"why_not": why_not})
        return
    made, seconds = [], 0.0
    for index, rows in enumerate(parts):
        if index < len(known):
            path, per_row = known[index]
            made.append(np.load(path))
            seconds += per_row * len(rows)
            continue
        report({"phase": "features", "done": index / len(parts)})
        before = time.perf_counter()
        made.append(engine.features(member, images.take(rows), report)[0])
        seconds += time.perf_counter() - before + seen.decode_per_row * len(rows)
    rows = np.concatenate(parts)
    order = np.argsort(rows)
    np.save(folder / "features.npy", np.concatenate(made)[order])
    np.save(folder / "rows.npy", rows[order])
    about = {
        "why_not": None,
        "backbone": backbone_checksum(engine, member),
        "seconds_per_row": seconds / len(rows),
    }
    write_json(folder / "about.json", about)


def _why_not(engine: Engine, member: Member, images: Images, report: Report) -> str | None:
    """Why outputs do not follow from features, tried on some rows; None if they do."""
    some = images.take(np.arange(min(TRIED_ROWS, len(images))))
    features_ND, outputs = engine.features(member, some, report)
    if makes_outputs(engine, member, features_ND, outputs):
        return None
    return f"its {NOT_LINEAR}"
