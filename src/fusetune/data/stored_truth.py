# SPDX-License-Identifier: Apache-2.0
"""The truth of rows as named arrays: how it is stored, told apart and joined.

Shapes: N rows, K objects of all rows, C classes.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fusetune.data.label_truth import encoded_maps, in_memory, stored_maps
from fusetune.errors import DataError, name_some
from fusetune.predictions.detection.objects import Objects
from fusetune.predictions.kinds import Array, Ids
from fusetune.predictions.ragged import offsets_of
from fusetune.predictions.segmentation.label_maps import LabelMaps
from fusetune.predictions.targets import GroundTruth, LabelSets, Numbers, Targets

__all__ = ["arrays_of", "contents_of", "joined", "names_of", "present_classes", "truth_of"]

TRUTHS: tuple[type[Targets] | type[LabelSets] | type[Numbers], ...] = (Targets, LabelSets, Numbers)
OF_OBJECTS = ("offsets", "boxes_K4", "labels_K", "crowd_K", "ignored_K", "areas_K", "sizes_N2")


def arrays_of(truth: GroundTruth) -> tuple[tuple[str, ...], dict[str, Array]]:
    """Column names, and the arrays of what is true, by names that do for files."""
    if isinstance(truth, Targets):
        return truth.classes, {"truth": truth.labels_N}
    if isinstance(truth, LabelSets):
        return truth.classes, {"truth": truth.present_NC}
    if isinstance(truth, Numbers):
        return truth.names, {"truth": truth.values_ND}
    if isinstance(truth, LabelMaps):
        encoded = encoded_maps(truth)
        return truth.classes, {f"truth-{name}": array for name, array in encoded.items()}
    assert isinstance(truth, Objects) and not truth.relative and truth.sizes_N2 is not None
    return truth.classes, {f"truth-{name}": getattr(truth, name) for name in OF_OBJECTS}


def names_of(truth: GroundTruth) -> tuple[str, ...]:
    """Names of the classes, or of the numbers."""
    names: tuple[str, ...] = truth.names if isinstance(truth, Numbers) else truth.classes  # type: ignore[attr-defined]
    return names


def truth_of(
    kind: str, ids: Ids, names: tuple[str, ...], arrays: Mapping[str, Array]
) -> GroundTruth:
    """The truth whose arrays `arrays_of` gave.

    Args:
        kind: Name of its class.
        ids: `(N,)` row names.
        names: Of classes or numbers.
        arrays: By their names.
    """
    if kind == Objects.__name__:
        given: dict[str, Any] = {name: arrays[f"truth-{name}"] for name in OF_OBJECTS}
        return Objects(ids, names, **given)
    if kind == LabelMaps.__name__:
        numbers = (arrays[f"truth-{name}"] for name in ("offsets", "sizes_N2", "counts_NC"))
        offsets, sizes_N2, counts_NC = map(np.asarray, numbers)
        return stored_maps(ids, names, arrays["truth-data"], (offsets, sizes_N2, counts_NC))
    return {cls.__name__: cls for cls in TRUTHS}[kind](ids, names, arrays["truth"])


def contents_of(truth: GroundTruth) -> Array:
    """`(N, ...)` what is true of every row, equal where it is the same."""
    if isinstance(truth, LabelMaps):
        return np.array([hashlib.blake2b(one.read().tobytes()).hexdigest() for one in truth.maps])
    if not isinstance(truth, Objects):
        (array,) = arrays_of(truth)[1].values()
        return array
    parts_K = np.column_stack([truth.boxes_K4, truth.labels_K])
    spans = zip(truth.offsets, truth.offsets[1:], strict=False)
    return np.array([hashlib.blake2b(parts_K[a:b].tobytes()).hexdigest() for a, b in spans])


def present_classes(truth: GroundTruth) -> set[int]:
    """Positions of the classes that any row has; of objects those that have to be found."""
    if isinstance(truth, LabelSets):
        return set(np.flatnonzero(truth.present_NC.any(axis=0)).tolist())
    if isinstance(truth, Objects):
        return set(truth.labels_K[~np.asarray(truth.ignored_K)].tolist())
    if isinstance(truth, LabelMaps):
        return set(np.flatnonzero(truth.counts_NC.any(axis=0)).tolist())
    assert isinstance(truth, Targets)
    return set(truth.labels_N.tolist())


def joined(parts: Sequence[GroundTruth], ids: Ids) -> GroundTruth:
    """The truth of several splits; a class that a split does not know is in none of its rows.

    Raises:
        DataError: The splits have other numbers.
    """
    first = parts[0]
    if isinstance(first, Numbers):
        return _joined_numbers([part for part in parts if isinstance(part, Numbers)], ids)
    if isinstance(first, LabelSets):
        sets = [part for part in parts if isinstance(part, LabelSets)]
        classes = tuple(dict.fromkeys(name for part in sets for name in part.classes))
        return LabelSets(ids, classes, np.concatenate([part.over(classes) for part in sets]))
    if isinstance(first, LabelMaps):
        return _joined_maps([part for part in parts if isinstance(part, LabelMaps)], ids)
    return _joined_objects([part for part in parts if isinstance(part, Objects)], ids)


def _joined_numbers(parts: Sequence[Numbers], ids: Ids) -> Numbers:
    first = parts[0]
    if other := next((part for part in parts if part.names != first.names), None):
        raise DataError(
            f"the splits have the numbers {name_some(first.names)} and {name_some(other.names)}",
            "the same columns, in one order, in every split",
            "Name the same columns in the label of each.",
        )
    return Numbers(ids, first.names, np.concatenate([part.values_ND for part in parts]))


def _joined_maps(parts: Sequence[LabelMaps], ids: Ids) -> LabelMaps:
    classes = tuple(dict.fromkeys(name for part in parts for name in part.classes))
    over = [part if part.classes == classes else in_memory(part, classes) for part in parts]
    maps = tuple(one for part in over for one in part.maps)
    return LabelMaps(ids, classes, maps, np.concatenate([part.counts_NC for part in over]))


def _joined_objects(parts: Sequence[Objects], ids: Ids) -> Objects:
    classes = tuple(dict.fromkeys(name for part in parts for name in part.classes))
    labels = [
        np.array([classes.index(name) for name in part.classes], dtype=np.int64)[part.labels_K]
        for part in parts
    ]
    arrays = [arrays_of(part)[1] for part in parts]
    whole = {name: np.concatenate([one[name] for one in arrays]) for name in arrays[0]}
    whole["truth-offsets"] = offsets_of(np.concatenate([np.diff(part.offsets) for part in parts]))
    whole["truth-labels_K"] = np.concatenate(labels)
    made = truth_of(Objects.__name__, ids, classes, whole)
    assert isinstance(made, Objects)
    return made
