# SPDX-License-Identifier: Apache-2.0
"""Seam one: the forms that predictions have. A task declares the kind its members give.

Shapes: N rows, C classes or other columns, D values.
"""

import abc
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from fusetune.errors import PredictionError, name_some

__all__ = [
    "Array",
    "Columnar",
    "Floats",
    "Ids",
    "Kind",
    "Marginals",
    "Probabilities",
    "Values",
    "as_ids",
]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.floating[Any]]
Ids = npt.NDArray[np.str_]

SUM_TOLERANCE = 1e-3  # CSV files with four digits and half-precision softmax stay below it


class Kind(abc.ABC):
    """Predictions of one member for rows named by ids. Immutable; sliced along rows only."""

    ids: Ids
    """`(N,)` unique row names."""

    @property
    @abc.abstractmethod
    def columns(self) -> tuple[str, ...]:
        """C unique names by which members are matched: of classes, or of numbers."""

    @abc.abstractmethod
    def take(self, rows: Array) -> Self:
        """The predictions of some rows, by position or by mask, in the order given."""

    @abc.abstractmethod
    def chunks(self, memory_bytes: int) -> Iterator[Self]:
        """Consecutive pieces that cover all rows once, each at most `memory_bytes` large."""

    @classmethod
    @abc.abstractmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """One prediction from pieces with disjoint rows, in the order given."""

    @abc.abstractmethod
    def over(self, columns: tuple[str, ...]) -> Self:
        """The same prediction with its columns in another order, and perhaps more of them."""

    def __len__(self) -> int:
        return len(self.ids)


class Columnar(Kind):
    """One number per row and named column: what averages, ranks and regressions work on alike.

    A kind names its two fields in its own terms (`classes` and `probs_NC`, say); `columns` and
    `array_NC` are the same for all. A column that a member does not have is missing, not 0.
    """

    @property
    @abc.abstractmethod
    def array_NC(self) -> Floats:
        """`(N, C)` floats; the prediction's own array, not a copy."""

    @classmethod
    @abc.abstractmethod
    def trusted(cls, like: Self, ids: Ids, columns: tuple[str, ...], array_NC: Floats) -> Self:
        """Build from numbers that are valid by construction: nothing is checked again."""

    def with_array(self, columns: tuple[str, ...], array_NC: Floats) -> Self:
        """The same rows with other numbers, valid by construction: not checked again."""
        return self.trusted(self, self.ids, columns, array_NC)

    def take(self, rows: Array) -> Self:
        """The predictions of some rows, by position or by mask; unknown columns stay absent."""
        return self.trusted(self, self.ids[rows], self.columns, self.array_NC[rows])

    def chunks(self, memory_bytes: int) -> Iterator[Self]:
        """Consecutive pieces of at most `memory_bytes` of numbers (at least one row)."""
        row_bytes = self.array_NC.itemsize * max(1, len(self.columns))
        step = max(1, memory_bytes // row_bytes)
        for start in range(0, len(self), step):
            rows = slice(start, start + step)
            yield self.trusted(self, self.ids[rows], self.columns, self.array_NC[rows])

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """One prediction from pieces with the same columns in the same order and disjoint rows."""
        assert parts and len({part.columns for part in parts}) == 1
        ids = as_ids(np.concatenate([part.ids for part in parts]))
        array_NC = np.concatenate([part.array_NC for part in parts])
        return cls.trusted(parts[0], ids, parts[0].columns, array_NC)

    def over(self, columns: tuple[str, ...]) -> Self:
        """The prediction with its columns in another order; those it does not have become 0."""
        if self.columns == columns:
            return self
        position = {name: index for index, name in enumerate(columns)}
        array_NC = np.zeros((len(self), len(columns)), dtype=self.array_NC.dtype)
        array_NC[:, [position[name] for name in self.columns]] = self.array_NC
        return self.with_array(columns, array_NC)


@dataclass(frozen=True, eq=False)
class Probabilities(Columnar):
    """Class probabilities `(N, C)` of one member, each row summing to 1, with class **names**.

    A class that the member does not know is absent from `classes`: missing, not 0.

    Args:
        ids: `(N,)` unique row names.
        classes: C unique class names, in the order of the columns.
        probs_NC: `(N, C)` floats in [0, 1]; kept as given (no copy) when rows sum to 1 within
            1e-6, else divided by their sums, which may be off by 1e-3 (rounded files).

    Raises:
        PredictionError: NaN, infinite, negative or unnormalized values (the first row is named),
            shapes that do not match, repeated ids or classes.
    """

    ids: Ids
    classes: tuple[str, ...]
    probs_NC: Floats

    def __post_init__(self) -> None:
        probs_NC = _checked_columns(self, "classes", "probs_NC")
        object.__setattr__(self, "probs_NC", _normalized(self.ids, probs_NC))

    @property
    def columns(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes

    @property
    def array_NC(self) -> Floats:
        """The probabilities."""
        return self.probs_NC

    @classmethod
    def trusted(cls, like: Self, ids: Ids, columns: tuple[str, ...], array_NC: Floats) -> Self:
        """Build from probabilities whose rows sum to 1."""
        return _built(cls, ids=ids, classes=columns, probs_NC=array_NC)

    @classmethod
    def from_logits(cls, ids: Ids, classes: Sequence[str], logits_NC: Floats) -> Self:
        """Softmax of `(N, C)` logits of any scale; computed in their own precision."""
        logits_NC = np.asarray(logits_NC)
        _refuse_infinite(ids, logits_NC, "logits")
        exp_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
        return cls(ids, tuple(classes), exp_NC / exp_NC.sum(axis=1, keepdims=True))

    def labels(self) -> npt.NDArray[np.str_]:
        """`(N,)` names of the most probable classes; the earlier class wins an exact tie."""
        return np.asarray(self.classes)[self.probs_NC.argmax(axis=1)]


@dataclass(frozen=True, eq=False)
class Marginals(Columnar):
    """Multi-label probabilities `(N, C)`: each class is there or not, whatever the others are.

    Args:
        ids: `(N,)` unique row names.
        classes: C unique class names, in the order of the columns.
        probs_NC: `(N, C)` floats in [0, 1]; kept as given (no copy).

    Raises:
        PredictionError: Values outside [0, 1] or NaN (the first row is named), shapes that do not
            match, repeated ids or classes.
    """

    ids: Ids
    classes: tuple[str, ...]
    probs_NC: Floats

    def __post_init__(self) -> None:
        probs_NC = _checked_columns(self, "classes", "probs_NC")
        if len(probs_NC):
            bad_N = ~((probs_NC >= 0) & (probs_NC <= 1)).all(axis=1)
            if bad_N.any():
                row = int(bad_N.argmax())
                raise PredictionError(
                    f"row '{self.ids[row]}' holds ({_some(probs_NC[row])}) "
                    f"({int(bad_N.sum()):,} such rows)",
                    "probabilities between 0 and 1",
                    "Apply a sigmoid first, or name the file's form if it holds logits or scores.",
                )
        object.__setattr__(self, "probs_NC", probs_NC)

    @property
    def columns(self) -> tuple[str, ...]:
        """The classes."""
        return self.classes

    @property
    def array_NC(self) -> Floats:
        """The probabilities."""
        return self.probs_NC

    @classmethod
    def trusted(cls, like: Self, ids: Ids, columns: tuple[str, ...], array_NC: Floats) -> Self:
        """Build from numbers in [0, 1]."""
        return _built(cls, ids=ids, classes=columns, probs_NC=array_NC)

    @classmethod
    def from_logits(cls, ids: Ids, classes: Sequence[str], logits_NC: Floats) -> Self:
        """Sigmoid of `(N, C)` logits; computed in their own precision."""
        logits_NC = np.asarray(logits_NC)
        _refuse_infinite(ids, logits_NC, "logits")
        small_NC = np.exp(-np.abs(logits_NC))
        probs_NC = np.where(logits_NC >= 0, 1, small_NC) / (1 + small_NC)
        return cls(ids, tuple(classes), probs_NC)


@dataclass(frozen=True, eq=False)
class Values(Columnar):
    """Numbers `(N, D)` that estimate numbers: a regression's outputs, or its quantiles.

    Args:
        ids: `(N,)` unique row names.
        names: D unique names of the target's columns, or of the quantiles.
        values_ND: `(N, D)` finite floats in the target's own unit; kept as given (no copy).
        levels: With quantiles, the level in (0, 1) of each column, rising; all columns then
            estimate one number. Empty: each column estimates a number of its own.

    Raises:
        PredictionError: NaN or infinite values (the first row is named), shapes that do not match,
            repeated ids or names, levels that do not rise between 0 and 1.
    """

    ids: Ids
    names: tuple[str, ...]
    values_ND: Floats
    levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        values_ND = _checked_columns(self, "names", "values_ND")
        object.__setattr__(self, "levels", tuple(float(level) for level in self.levels))
        ends = (0.0, *self.levels, 1.0)
        rising = all(low < high for low, high in itertools.pairwise(ends))
        if self.levels and (len(self.levels) != len(self.names) or not rising):
            raise PredictionError(
                f"the quantile levels are {name_some([f'{level:g}' for level in self.levels])}",
                f"{len(self.names)} rising numbers between 0 and 1, one for each column",
                "Order the columns by level.",
            )
        _refuse_infinite(self.ids, values_ND, "values")
        object.__setattr__(self, "values_ND", values_ND)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names."""
        return self.names

    @property
    def array_NC(self) -> Floats:
        """The values."""
        return self.values_ND

    @classmethod
    def trusted(cls, like: Self, ids: Ids, columns: tuple[str, ...], array_NC: Floats) -> Self:
        """Build from finite numbers, with the levels of a prediction that is like it."""
        level = dict(zip(like.names, like.levels, strict=bool(like.levels)))
        levels = tuple(level[name] for name in columns) if level else ()
        return _built(cls, ids=ids, names=columns, values_ND=array_NC, levels=levels)


def as_ids(values: Sequence[str] | Array) -> Ids:
    """Row names as a `(N,)` string array; whole numbers become their digits.

    Raises:
        PredictionError: An id occurs twice; the first such id is named.
    """
    ids = np.asarray(values)
    if ids.dtype.kind != "U":
        ids = ids.astype(str) if len(ids) else np.empty(0, dtype="U1")
    if len(set(ids.tolist())) < len(ids):
        unique, first, counts = np.unique(ids, return_index=True, return_counts=True)
        repeated = unique[counts > 1][np.argsort(first[counts > 1])]
        raise PredictionError(
            f"{len(repeated)} ids occur more than once: {name_some(repeated)}",
            "every row to have an id of its own",
            "Remove the repeated rows, or give an id column whose values are unique.",
        )
    return ids


T = TypeVar("T", bound=Columnar)


def _checked_columns(made: Columnar, names: str, array: str) -> Floats:
    """Coerce the fields of a prediction, check their shapes, and give its array."""
    array_NC = np.asarray(getattr(made, array))
    if array_NC.dtype not in (np.float32, np.float64):
        array_NC = array_NC.astype(np.float32)
    columns = tuple(str(name) for name in getattr(made, names))
    object.__setattr__(made, "ids", as_ids(made.ids))
    object.__setattr__(made, names, columns)
    if array_NC.shape != (len(made.ids), len(columns)):
        raise PredictionError(
            f"{_called(made)} have the shape {array_NC.shape}",
            f"{len(made.ids):,} rows and {len(columns)} {names}",
            f"Give one row per id and one column for each of the {names}.",
        )
    if len(set(columns)) < len(columns) or not columns:
        repeated = sorted({name for name in columns if columns.count(name) > 1})
        raise PredictionError(
            f"the {names} are {name_some(columns)}"
            + (f" with {name_some(repeated)} repeated" * bool(repeated)),
            f"at least one of the {names}, each named once",
            "Rename or remove columns.",
        )
    return array_NC


def _called(made: Columnar) -> str:
    return "values" if isinstance(made, Values) else "probabilities"


def _refuse_infinite(ids: Ids, array_NC: Floats, what: str) -> None:
    bad_N = ~np.isfinite(array_NC).all(axis=1)
    if bad_N.any():
        raise PredictionError(
            f"the {what} of row '{ids[bad_N.argmax()]}' hold NaN or infinity "
            f"({int(bad_N.sum()):,} such rows)",
            "finite numbers",
            "Check that the member's training did not diverge.",
        )


def _normalized(ids: Ids, probs_NC: Floats) -> Floats:
    if not len(probs_NC):
        return probs_NC
    sums_N = probs_NC.sum(axis=1, dtype=np.float64)
    bad_N = ~np.isfinite(sums_N) | (probs_NC.min(axis=1) < 0) | (abs(sums_N - 1) > SUM_TOLERANCE)
    if bad_N.any():
        row = int(bad_N.argmax())
        raise PredictionError(
            f"row '{ids[row]}' holds ({_some(probs_NC[row])}), which sum to "
            f"{sums_N[row]:.4g} ({int(bad_N.sum()):,} such rows)",
            "finite probabilities of at least 0 that sum to 1",
            "Apply a softmax first, or name the file's form if it holds logits or scores.",
        )
    if (abs(sums_N - 1) > 1e-6).any():
        return (probs_NC / sums_N[:, None]).astype(probs_NC.dtype)
    return probs_NC


def _some(values_C: Floats) -> str:
    return ", ".join(f"{value:.4g}" for value in values_C[:6]) + ", ..." * (len(values_C) > 6)


def _built(cls: type[T], **fields: object) -> T:
    made = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made
