# SPDX-License-Identifier: Apache-2.0
"""The rows on which members disagree most: what each says, what is true, what the fusion makes of it.

Shapes: H W pixels.
"""

import base64
import io
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from fusetune.predictions.kinds import Array, Probabilities
from fusetune.predictions.targets import Targets
from fusetune.report.contents import Contents
from fusetune.report.rows import JudgedRows
from fusetune.report.rows import disputed as disputed_ids
from fusetune.report.section import Section
from fusetune.report.words import shortened

__all__ = ["Disputed"]

SHOWN_PIXELS = 112  # side of an image on the page
MOST_WITHOUT_IMAGES = 12


class Disputed(Section):
    """Images with every member's label; without images, the rows by name."""

    title: ClassVar[str] = "Disputed rows"
    order: ClassVar[int] = 70

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None where the members' predictions are not there, or they never disagree."""
        test = contents.test
        if test is None:
            return None
        shown = [name for name in contents.thumbnails if name in set(test.targets.ids.tolist())]
        ids = shown or disputed_ids(test.members, test.targets, MOST_WITHOUT_IMAGES)
        if not ids:
            return None
        chosen = contents.predictor(contents.chosen)
        used = set(chosen.runs if chosen and chosen.runs else test.members)
        return {
            "cards": _cards(test, list(ids), contents.thumbnails, used),
            "chosen_name": contents.chosen,
            "rows_name": contents.rows_name,
            "most_letters": 24,
            "shortened": shortened,
            "all_used": used >= set(test.members),
        }


def _cards(
    test: JudgedRows[Probabilities, Targets],
    ids: list[str],
    thumbnails: Mapping[str, Array],
    used: set[str],
) -> list[dict[str, Any]]:
    position = {name: row for row, name in enumerate(test.targets.ids.tolist())}
    rows = np.array([position[name] for name in ids])
    truths = test.targets.take(rows).names().tolist()
    said = {name: _said(part, rows, truths) for name, part in test.members.items()}
    fused = _said(test.chosen, rows, truths) if test.chosen is not None else None
    return [
        {
            "id": name,
            "truth": truths[index],
            "image": _image(thumbnails[name]) if name in thumbnails else None,
            "lines": [(member, lines[index], member in used) for member, lines in said.items()],
            "fused": fused[index] if fused else None,
        }
        for index, name in enumerate(ids)
    ]


def _said(part: Probabilities, rows: Array, truths: list[str]) -> list[dict[str, Any]]:
    taken = part.take(rows)
    labels, tops = taken.labels().tolist(), taken.probs_NC.max(axis=1).tolist()
    return [
        {"label": label, "percent": f"{100 * top:.0f}", "right": label == truth}
        for label, top, truth in zip(labels, tops, truths, strict=True)
    ]


def _image(pixels_HWC: Array) -> dict[str, Any]:
    """A data URI: PNG for what is small enough to be shown pixel by pixel, else a reduced JPEG."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels_HWC[..., :3]), mode=None)
    small = max(image.size) <= SHOWN_PIXELS
    file = io.BytesIO()
    if small:
        image.save(file, format="PNG", optimize=False)
    else:
        image.thumbnail((2 * SHOWN_PIXELS, 2 * SHOWN_PIXELS))
        image.save(file, format="JPEG", quality=85)
    kind = "png" if small else "jpeg"
    encoded = base64.b64encode(file.getvalue()).decode("ascii")
    return {
        "uri": f"data:image/{kind};base64,{encoded}",
        "pixelated": max(image.size) <= SHOWN_PIXELS // 2,
        "width": image.width,
        "height": image.height,
    }
