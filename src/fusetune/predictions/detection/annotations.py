# SPDX-License-Identifier: Apache-2.0
"""True objects in the files of others: COCO JSON, folders of YOLO labels, folders of Pascal VOC XML.

Shapes: N rows, K objects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fusetune.errors import PredictionError, counted
from fusetune.predictions.detection.coco import (
    bbox_of,
    categories_of,
    check_size,
    coco_content,
    id_of,
    is_number,
    order_of,
    sizes_of,
)
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Floats, Ids, as_ids
from fusetune.predictions.ragged import offsets_of
from fusetune.predictions.tables import named_errors

__all__ = [
    "Annotations",
    "holds_annotations",
    "read_annotations",
    "yolo_lines",
    "yolo_names",
]

ROTATED = 9  # numbers of an oriented YOLO line: a class and four corners


@dataclass(frozen=True, eq=False)
class Annotations:
    """What a file or folder of annotations says.

    Args:
        objects: The truth.
        stems: `(N,)` names of the image files without their ending, by which YOLO's files are
            found; the ids where there are no such.
        categories: What numbers stand for which class in results files; empty: unknown.
        numbers: The same in YOLO's files.
        notes: What was repaired.
    """

    objects: Objects
    stems: Ids
    categories: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def holds_annotations(path: Path) -> bool:
    """Whether a targets path is one of detection: a JSON file, or a folder."""
    return path.suffix.lower() == ".json" or path.is_dir()


def read_annotations(
    path: Path, *, repair: bool = False, classes: Sequence[str] = ()
) -> Annotations:
    """Read the truth of detection.

    Args:
        path: A COCO JSON file; or a folder of YOLO label files (`class x y w h` as shares, with the
            names in `data.yaml` or `classes.txt` there or above), or of Pascal VOC XML files, one
            per image.
        repair: Leave out objects without a positive size or of an unknown class, and cut those that
            stick out of their image; else each is an error.
        classes: Names of the numbers in YOLO files.

    Raises:
        PredictionError: Files that cannot be read or are cut short, and whatever `repair` mends
            (the annotation is named).
    """
    with named_errors(path):
        if path.is_dir():
            if any(path.glob("*.xml")):
                return _read_voc(path, repair)
            return _read_yolo(path, repair, classes)
        return _read_coco(path, repair)


class _Collected:
    """Objects one after the other, checked as they come."""

    def __init__(self, sizes_N2: Floats | None, repair: bool) -> None:
        self.sizes_N2, self.repair = sizes_N2, repair
        self.rows: list[int] = []
        self.boxes: list[Sequence[float]] = []
        self.labels: list[int] = []
        self.flags: list[tuple[bool, bool, float]] = []
        self.repaired: dict[str, int] = {}

    def fault(self, where: str, fault: str, expected: str) -> None:
        """Count what is repaired, or refuse it."""
        if not self.repair:
            raise PredictionError(
                f"{where} {fault}",
                expected,
                "Correct the annotation, or pass --repair to leave such objects out and cut boxes "
                "at the image's edge.",
            )
        self.repaired[fault.split(":")[0]] = self.repaired.get(fault.split(":")[0], 0) + 1

    def add(
        self,
        row: int,
        where: str,
        box: Sequence[float],
        label: int | None,
        flags: tuple[bool, bool, float | None],
    ) -> None:
        """One object: corners, class (None: unknown), and crowd, ignored, area."""
        if label is None:
            return self.fault(where, "is of an unknown class", "a class that the file lists")
        if not np.isfinite(box).all():
            numbers = ", ".join(f"{value:g}" for value in box)
            return self.fault(where, f"holds NaN or infinity: ({numbers})", "finite numbers")
        if not (box[2] > box[0] and box[3] > box[1]):
            sides = f"{box[2] - box[0]:g} by {box[3] - box[1]:g}"
            return self.fault(where, f"has no positive size: {sides}", "positive sides")
        area = flags[2]
        if self.sizes_N2 is not None:
            cut = np.clip(box, 0, np.tile(self.sizes_N2[row], 2))
            if np.abs(cut - box).max() > 1:  # a pixel is rounding
                image = " by ".join(f"{side:g}" for side in self.sizes_N2[row])
                numbers = ", ".join(f"{value:g}" for value in box)
                self.fault(
                    where, f"sticks out of its image: ({numbers}) in {image}", "a box inside it"
                )
                if not (cut[2] > cut[0] and cut[3] > cut[1]):
                    return None
                box, area = cut.tolist(), None
        self.rows.append(row)
        self.boxes.append(box)
        self.labels.append(label)
        own = (box[2] - box[0]) * (box[3] - box[1])
        self.flags.append((flags[0], flags[1], own if area is None else area))
        return None

    def notes(self) -> tuple[str, ...]:
        """What was repaired."""
        return tuple(
            f"Repaired annotations: {counted(number, 'object')} that {fault}."
            for fault, number in self.repaired.items()
        )

    def objects(self, ids: Ids, classes: Sequence[str], *, relative: bool = False) -> Objects:
        """The truth of all rows."""
        rows_K = np.array(self.rows, dtype=np.int64)
        order = np.argsort(rows_K, kind="stable")
        flags_K3 = np.array(self.flags, dtype=np.float64).reshape(-1, 3)[order]
        return Objects(
            ids,
            tuple(classes),
            offsets_of(np.bincount(rows_K, minlength=len(ids))),
            np.array(self.boxes, dtype=np.float64).reshape(-1, 4)[order],
            np.array(self.labels, dtype=np.int64)[order],
            crowd_K=flags_K3[:, 0] > 0,
            ignored_K=flags_K3[:, 1] > 0,
            areas_K=flags_K3[:, 2],
            relative=relative,
            sizes_N2=self.sizes_N2,
        )


def _read_coco(path: Path, repair: bool) -> Annotations:
    content = coco_content(path)
    images = sorted(content["images"], key=lambda image: order_of(id_of(image["id"])))
    ids = as_ids([id_of(image["id"]) for image in images])
    row_of = {name: row for row, name in enumerate(ids.tolist())}
    categories = categories_of(content["categories"])
    classes = tuple(dict.fromkeys(categories.values()))
    made = _Collected(sizes_of(images), repair)
    for number, one in enumerate(content["annotations"]):
        image = id_of(one["image_id"])
        where = f"annotation {one.get('id', number)} of image '{image}'"
        if image not in row_of:
            made.fault(where, "is of an unknown image", "an image that the file lists")
            continue
        left, top, wide, high = bbox_of(where, one.get("bbox"))
        strange = [key for key in ("iscrowd", "ignore") if one.get(key, 0) not in (0, 1)]
        if strange:
            made.fault(where, f"has an unclear flag: {strange[0]}: {one[strange[0]]!r}", "0 or 1")
            continue
        area, name = one.get("area"), categories.get(id_of(one.get("category_id")))
        if area is not None and not (is_number(area) and 0 <= area < np.inf):
            made.fault(where, f"has an impossible area: {area!r}", "a number of pixels, or none")
            area = None
        flags = (one.get("iscrowd", 0) == 1, one.get("ignore", 0) == 1, area)
        label = None if name is None else classes.index(name)
        made.add(row_of[image], where, (left, top, left + wide, top + high), label, flags)
    stems = [Path(str(image.get("file_name", image["id"]))).stem for image in images]
    return Annotations(
        made.objects(ids, classes), np.array(stems, str), categories, {}, made.notes()
    )


def _read_yolo(path: Path, repair: bool, classes: Sequence[str]) -> Annotations:
    files = sorted(file for file in path.glob("*.txt") if file.name != "classes.txt")
    if not files:
        raise PredictionError(
            "the folder holds no label files",
            "one .txt (YOLO) or .xml (Pascal VOC) file per image",
            "Check the path.",
        )
    names = tuple(classes) or yolo_names(path)
    made = _Collected(None, repair)
    most = -1
    for row, file in enumerate(files):
        for number, line in enumerate(yolo_lines(file, scores=False)):
            where = f"line {number + 1} of '{file.name}'"
            label, (x, y, wide, high) = int(line[0]), line[1:5]
            known = not names or 0 <= label < len(names)
            most = max(most, label)
            box = (x - wide / 2, y - high / 2, x + wide / 2, y + high / 2)
            cut = np.clip(box, 0, 1)
            if np.abs(cut - box).max() > 1e-3:  # four digits are rounding
                made.fault(where, f"sticks out of its image: {line[1:5]}", "shares from 0 to 1")
                if not (cut[2] > cut[0] and cut[3] > cut[1]):
                    continue
            flags = (False, False, None)
            made.add(row, where, cut.tolist(), label if known and label >= 0 else None, flags)
    names = names or tuple(str(number) for number in range(most + 1))
    ids = as_ids([file.stem for file in files])
    numbered = {str(number): name for number, name in enumerate(names)}
    objects = made.objects(ids, names, relative=True)
    return Annotations(objects, ids, numbered, numbered, made.notes())


def yolo_lines(file: Path, *, scores: bool) -> list[list[float]]:
    """The numbers of each line of a YOLO file: class, center, width, height, and perhaps a score.

    Raises:
        PredictionError: A line holds anything else (it is named).
    """
    lines = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines()):
        if not text.strip():
            continue
        try:
            line = [float(word) for word in text.split()]
        except ValueError:
            line = []
        width = 6 if scores else 5
        if len(line) != width or not line[0].is_integer():
            turned = " and may be of a rotated box" if len(line) in (ROTATED, ROTATED + 1) else ""
            raise PredictionError(
                f"line {number + 1} of '{file.name}' is '{text[:60]}'{turned}",
                f"{width} numbers: class (a whole one), center x and y, width, height"
                + ", score" * scores,
                "Rotated boxes are not supported."
                if turned
                else "Save confidences too." * scores or "Correct the line.",
            )
        lines.append(line)
    return lines


def yolo_names(path: Path) -> tuple[str, ...]:
    """Class names beside YOLO's labels: of `data.yaml` or `classes.txt` there or above; else none."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "classes.txt").is_file():
            written = (folder / "classes.txt").read_text(encoding="utf-8").splitlines()
            return tuple(line.strip() for line in written if line.strip())
        if (folder / "data.yaml").is_file():
            import yaml

            content = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8")) or {}
            names = content.get("names", ())
            values = [names[key] for key in sorted(names)] if isinstance(names, Mapping) else names
            return tuple(map(str, values))
    return ()


def _read_voc(path: Path, repair: bool) -> Annotations:
    from xml.etree import ElementTree

    files = sorted(path.glob("*.xml"))
    sizes, found = [], []
    for row, file in enumerate(files):
        try:
            tree = ElementTree.parse(file).getroot()
            size = tree.find("size")
            assert size is not None
            sizes.append([float(size.findtext(side, "")) for side in ("width", "height")])
            check_size(f"'{file.name}'", sizes[-1])
            for number, one in enumerate(tree.iter("object")):
                box = one.find("bndbox")
                assert box is not None
                left, top, right, bottom = (
                    float(box.findtext(side, "")) for side in ("xmin", "ymin", "xmax", "ymax")
                )
                hard = one.findtext("difficult", "0").strip() == "1"
                where = f"object {number + 1} of '{file.name}'"
                corners = (left - 1, top - 1, right, bottom)  # pixels are counted from 1
                found.append((row, where, corners, one.findtext("name", "").strip(), hard))
        except (ElementTree.ParseError, ValueError, AssertionError) as error:
            raise PredictionError(
                f"'{file.name}' is no complete Pascal VOC annotation ({error or 'a part is missing'})",
                "a size with width and height, and objects with a name and a bndbox",
                "Write or copy the file again.",
            ) from error
    classes = tuple(sorted({name for *_, name, _ in found if name}))
    made = _Collected(np.array(sizes), repair)
    for row, where, corners, name, hard in found:
        label = classes.index(name) if name else None
        made.add(row, where, corners, label, (False, hard, None))
    ids = as_ids([file.stem for file in files])
    return Annotations(made.objects(ids, classes), ids, notes=made.notes())
