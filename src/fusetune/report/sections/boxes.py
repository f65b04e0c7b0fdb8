# SPDX-License-Identifier: Apache-2.0
"""Images with boxes: what is true, what the chosen predictor and the members draw.

Shapes: K boxes.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from fusetune.predictions.kinds import Floats
from fusetune.report.box_pictures import ASIDE, RIGHT, BoxPicture, BoxPictures
from fusetune.report.contents import Contents
from fusetune.report.images import data_uri
from fusetune.report.section import Section

__all__ = ["Boxes"]

COLORS = ("#ffb000", "#4cc3ff", "#ff6f61", "#63e06b", "#f25fd0", "#f6ec4b", "#a18bff", "#37e0d0")
"""Of classes, in turn: bright on photographs, and told apart by the color-blind but for the last two."""
STYLES = {RIGHT: "right", ASIDE: "aside"}
REASONS = {
    "gain": "{chosen} gains most over {best}",
    "loss": "{chosen} loses most against {best}",
    "disputed": "members differ most from {chosen}",
}


class Boxes(Section):
    """A row of small pictures for each image: truth, chosen predictor, members."""

    title: ClassVar[str] = "Pictures of boxes"
    order: ClassVar[int] = 72

    def content(self, contents: Contents) -> dict[str, Any] | None:
        """None for other kinds, and where no images are at hand."""
        found = contents.box_pictures
        if found is None:
            return None
        who = {"chosen": contents.chosen, "best": contents.best_member}
        used = np.unique(np.concatenate([one.boxes_K8[:, 5] for one in found.pictures]))
        return {
            "rows_name": contents.rows_name,
            "left_out": found.left_out,
            "cuts": [
                (name, f"{found.cuts[name]:.2f}" if np.isfinite(found.cuts[name]) else "none")
                for name in found.layers[1:]
            ],
            "legend": [
                {"name": found.classes[index], "color": COLORS[index % len(COLORS)]}
                for index in used.astype(int).tolist()
            ],
            "rows": [_row(number, one, found, who) for number, one in enumerate(found.pictures)],
        }


def _row(
    number: int, picture: BoxPicture, found: BoxPictures, who: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "id": picture.id,
        "reason": REASONS[picture.reason].format(**who),
        "image": data_uri(picture.pixels_HWC),
        "anchor": f"boxes-image-{number}",
        "panels": [
            _panel(
                name, picture.boxes_K8[picture.boxes_K8[:, 0] == layer], found.classes, not layer
            )
            for layer, name in enumerate(found.layers)
        ],
    }


def _panel(name: str, boxes_K8: Floats, classes: tuple[str, ...], truth: bool) -> dict[str, Any]:
    right, aside = (int((boxes_K8[:, 7] == status).sum()) for status in (RIGHT, ASIDE))
    return {
        "name": name,
        "truth": truth,
        "boxes": [_box(box_8, classes, truth) for box_8 in boxes_K8[::-1]],
        "right": right,
        "wrong": len(boxes_K8) - right - aside,
    }


def _box(box_8: Floats, classes: tuple[str, ...], truth: bool) -> dict[str, Any]:
    """Places in percent; the label at the end of the box that leaves it more room."""
    left, top, right, bottom = (float(np.clip(100 * side, 0, 100)) for side in box_8[1:5])
    name, status = classes[int(box_8[5])], int(box_8[7])
    words = {RIGHT: "found" if truth else "right", ASIDE: "does not count"}
    said = words.get(status, "missed" if truth else "wrong")
    label = name if truth else f"{name} {100 * box_8[6]:.0f}"
    return {
        "x": round(left, 2),
        "y": round(top, 2),
        "width": round(right - left, 2),
        "height": round(bottom - top, 2),
        "style": STYLES.get(status, "wrong"),
        "color": COLORS[int(box_8[5]) % len(COLORS)],
        "label": label,
        "words": f"{label}: {said}",
        "at": round(right if left > 55 else left, 2),
        "end": left > 55,
        "inside": top < 9,
    }
