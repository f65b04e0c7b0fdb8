# SPDX-License-Identifier: Apache-2.0
"""Prediction and targets files whose form is known: `id` and one column per class or value.

`reading.py` reads files of other forms.

Shapes: N rows, C classes, D values.
"""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fusetune.errors import PredictionError, name_some
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.detection.detections import object_columns, read_boxes, write_boxes
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Array, Columnar, Kind, Marginals, Probabilities, Values
from fusetune.predictions.segmentation.files import kept_masks
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.segmentation.masks import Masks
from fusetune.predictions.segmentation.writing import write_mask_pieces, write_masks
from fusetune.predictions.tables import ID, TARGET, Table, named_errors, read_table, write_table
from fusetune.predictions.targets import GroundTruth, LabelSets, Numbers, Targets

__all__ = [
    "columnar_columns",
    "read_columnar",
    "read_prediction_of",
    "read_probabilities",
    "read_targets",
    "read_truth",
    "target_columns",
    "write_columnar",
    "write_prediction",
    "write_prediction_pieces",
    "write_probabilities",
    "write_targets",
]

QUANTILE = "q"  # a quantile's column is called q0.05


def write_columnar(path: Path, prediction: Columnar) -> None:
    """Write `id` and one single-precision column per class or value; the same content, the same bytes.

    Args:
        path: Ends in `.parquet` or `.csv`; replaced in one step if it exists.
        prediction: What to write; double precision is rounded to single, except for `Values`,
            which may need it. Quantiles are written as `q0.05`, `q0.5`, ...

    Raises:
        PredictionError: A column is called `id`, or the path has another ending.
    """
    write_table(path, columnar_columns(prediction))


def columnar_columns(prediction: Columnar) -> dict[str, Array]:
    """The columns that `write_columnar` writes.

    Raises:
        PredictionError: A column is called `id`.
    """
    names = prediction.columns
    if isinstance(prediction, Values) and prediction.levels:
        names = tuple(f"{QUANTILE}{level:g}" for level in prediction.levels)
    if ID in names:
        raise PredictionError(
            f"a class is called '{ID}'", "that name for the column of ids only", "Rename the class."
        )
    dtype = prediction.array_NC.dtype if isinstance(prediction, Values) else np.float32
    columns: dict[str, Array] = {ID: prediction.ids}
    array_CN = np.ascontiguousarray(prediction.array_NC.T, dtype=dtype)
    columns.update(zip(names, array_CN, strict=True))
    return columns


def write_prediction(path: Path, prediction: Kind) -> None:
    """Write a prediction of any kind; see `write_columnar`, and `write_boxes` for a line per box.

    Masks are a folder of that name without the ending; see `write_masks`.
    """
    if isinstance(prediction, Boxes):
        write_boxes(path, prediction)
    elif isinstance(prediction, Masks):
        write_masks(path.with_suffix(""), prediction)
    else:
        assert isinstance(prediction, Columnar)
        write_columnar(path, prediction)


def write_prediction_pieces(path: Path, pieces: Iterable[Kind]) -> None:
    """As `write_prediction`, of consecutive rows after another: of masks, one piece is held at a time."""
    others = iter(pieces)
    first = next(others)
    if isinstance(first, Masks):
        masks = (one for one in others if isinstance(one, Masks))
        write_mask_pieces(path.with_suffix(""), first.classes, itertools.chain([first], masks))
        return
    write_prediction(path, type(first).concat([first, *others]))


def read_prediction_of(path: Path, kind: type[Kind]) -> Kind:
    """Read what `write_prediction` wrote of a kind, in Parquet; masks are read when they are needed."""
    if kind is Boxes:
        return read_boxes(path)
    if kind is Masks:
        return kept_masks(path.with_suffix(""))
    assert issubclass(kind, Columnar)
    return read_columnar(path, kind)


def write_probabilities(path: Path, probabilities: Probabilities) -> None:
    """Write class probabilities; see `write_columnar`."""
    write_columnar(path, probabilities)


def read_columnar(path: Path, kind: type[Columnar]) -> Columnar:
    """Read what `write_columnar` wrote.

    Args:
        path: Parquet or CSV with a column `id` and one numeric column per class or value; or npz
            with the arrays `ids`, `probs` or `values` (N, C) and `classes`. Numbers keep the
            file's precision, which for CSV is double.
        kind: What the columns are.

    Raises:
        PredictionError: No such file, a damaged one, no column `id`, a column that is not numeric
            (named), numbers that the kind does not allow (the first row is named), repeated ids.
    """
    path = Path(path)
    with named_errors(path):
        table = read_table(path)
        ids = _ids_of(table)
        if kind is Values:
            return _values(table)
        assert issubclass(kind, Probabilities | Marginals)
        return kind(ids, table.names, table.numbers_NC(table.names))


def read_probabilities(path: Path) -> Probabilities:
    """Read class probabilities; see `read_columnar`."""
    prediction = read_columnar(path, Probabilities)
    assert isinstance(prediction, Probabilities)
    return prediction


def write_targets(path: Path, targets: GroundTruth) -> None:
    """Write `id` and `target` (class names, or one number), or one column per class or number.

    Of objects, a line each; see `object_columns`. Of label maps, how many pixels each class has.

    Raises:
        PredictionError: The path has another ending.
    """
    write_table(path, target_columns(targets))


def target_columns(targets: GroundTruth) -> dict[str, Array]:
    """The columns that `write_targets` writes."""
    if isinstance(targets, Objects):
        return object_columns(targets)
    if isinstance(targets, LabelMaps):
        pixels = zip(targets.classes, targets.counts_NC.T, strict=True)
        return {
            ID: targets.ids,
            **{name: np.ascontiguousarray(counts_N) for name, counts_N in pixels},
        }
    columns: dict[str, Array] = {ID: targets.ids}
    if isinstance(targets, Targets):
        columns[TARGET] = targets.names()
    elif isinstance(targets, LabelSets):
        columns.update(zip(targets.classes, targets.present_NC.T.astype(np.int8), strict=True))
    elif isinstance(targets, Numbers):
        columns.update(zip(targets.names, np.ascontiguousarray(targets.values_ND.T), strict=True))
    return columns


def read_targets(path: Path, classes: Sequence[str] = ()) -> Targets:
    """Read true classes.

    Args:
        path: Parquet or CSV with the columns `id` and `target`; class names, or whole numbers,
            which become their digits.
        classes: Known class names, which fix the order; empty: the sorted names that occur.

    Raises:
        PredictionError: No such file, a damaged one, a column missing, an empty target (its row is
            named), a target that is not among the classes, repeated ids.
    """
    path = Path(path)
    with named_errors(path):
        table = read_table(path)
        return Targets.from_names(_ids_of(table), table.texts(TARGET), classes)


def read_truth(path: Path, kind: type[Columnar], classes: Sequence[str] = ()) -> GroundTruth:
    """Read what `write_targets` wrote, for predictions of a kind."""
    if kind is Probabilities:
        return read_targets(path, classes)
    with named_errors(path):
        table = read_table(path)
        ids, array_NC = _ids_of(table), table.numbers_NC(table.names)
        if kind is Marginals:
            return LabelSets(ids, table.names, array_NC > 0.5)
        return Numbers(ids, table.names, array_NC)


def quantile_level(name: str) -> float | None:
    """The level that a column's name says: `q0.05`, `0.05`, `q5` and `p5` are 0.05; else None."""
    text = name.strip().lower().removeprefix("quantile").lstrip("_- ")
    percent = text[:1] in ("q", "p") and text[1:].isdigit()
    try:
        level = float(text.lstrip("qp"))
    except ValueError:
        return None
    level = level / 100 if percent else level
    return level if 0 < level < 1 else None


def _values(table: Table) -> Values:
    levels = [quantile_level(name) for name in table.names]
    known = tuple(level for level in levels if level is not None)
    quantiles = len(known) == len(levels) > 0
    values_ND = table.numbers_NC(table.names)
    return Values(_ids_of(table), table.names, values_ND, known if quantiles else ())


def _ids_of(table: Table) -> Array:
    if table.ids is None:
        raise PredictionError(
            f"the arrays are {name_some(list(table.columns))} without ids",
            "a file that names its rows",
            "Write a column 'id', or an npz file with an array 'ids'.",
        )
    return table.ids
