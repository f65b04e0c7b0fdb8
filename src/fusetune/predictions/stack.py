# SPDX-License-Identifier: Apache-2.0
"""Several members' predictions of one kind, aligned by id and class **name**.

Shapes: M members, N rows, C classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

from fusetune.errors import MisalignedMembers, name_some
from fusetune.predictions.kinds import Array, Floats, Ids, Kind, Probabilities, Values

__all__ = [
    "RESERVED_MEMBERS",
    "Stack",
    "known_classes",
    "misaligned",
    "probabilities_MNC",
    "rows_of",
]

K = TypeVar("K", bound=Kind)

RESERVED_MEMBERS = ("ensemble", "auto", "best_member")  # names of fusions, never of members


@dataclass(frozen=True, eq=False)
class Stack(Generic[K]):
    """Predictions of M members for the same rows in the same order. Build one with `align`.

    Args:
        members: M unique member names.
        parts: M predictions of one kind, with identical ids.
        classes: Union of the members' columns (class names, for `Values` their names), in the
            order every method works in.
        features: Name → `(N, D)` feature vectors of the same rows, for methods that weigh members
            row by row.
    """

    members: tuple[str, ...]
    parts: tuple[K, ...]
    classes: tuple[str, ...] = ()
    features: Mapping[str, Floats] = field(default_factory=dict)

    @classmethod
    def align(
        cls,
        predictions: Mapping[str, K],
        *,
        ids: Ids | None = None,
        classes: Sequence[str] = (),
        features: Mapping[str, Values] | None = None,
    ) -> Self:
        """Line members up by id and class name.

        Args:
            predictions: Member name → prediction; each may have its own row and class order.
            ids: `(N,)` rows to line up, in this order; by default the first member's.
            classes: Class names that come first, in this order (usually the targets').
            features: Name → feature vectors; they may have more rows than the members.

        Raises:
            MisalignedMembers: A member lacks rows (counted and named), has extra ones while `ids`
                is not given, knows none of the classes, or there is no member.
        """
        if not predictions:
            raise MisalignedMembers(
                "no member was given", "at least one prediction", "Name a prediction file."
            )
        first = next(iter(predictions.values()))
        wanted = first.ids if ids is None else ids
        parts = tuple(
            _aligned_rows(name, part, wanted, exact=ids is None)
            for name, part in predictions.items()
        )
        vectors = {
            name: _aligned_rows(name, part, wanted, exact=False).values_ND
            for name, part in (features or {}).items()
        }
        return cls(tuple(predictions), parts, _class_union(parts, classes), vectors)

    @property
    def ids(self) -> Ids:
        """`(N,)` row names."""
        return self.parts[0].ids

    def select(self, members: Sequence[str]) -> Self:
        """The stack of some members, in the order given."""
        missing = [name for name in members if name not in self.members]
        if missing:
            raise MisalignedMembers(
                f"predictions of {name_some(missing)} are missing among {name_some(self.members)}",
                "one prediction of every member that has weight",
                "Give the predictions of all these members.",
            )
        parts = tuple(self.parts[self.members.index(name)] for name in members)
        return type(self)(tuple(members), parts, self.classes, self.features)

    def take(self, rows: Array) -> Self:
        """The stack of some rows, by position or by mask, in the order given."""
        parts = tuple(part.take(rows) for part in self.parts)
        vectors = {name: vectors_ND[rows] for name, vectors_ND in self.features.items()}
        return type(self)(self.members, parts, self.classes, vectors)

    def chunks(self, memory_bytes: int) -> Iterator[Self]:
        """Consecutive pieces of the rows whose predictions together take at most `memory_bytes`."""
        share = max(1, memory_bytes // len(self.parts))
        step = min((len(next(part.chunks(share), part)) for part in self.parts), default=0)
        for start in range(0, len(self), max(1, step)):
            yield self.take(np.arange(start, min(start + step, len(self))))

    def __getitem__(self, member: str) -> K:
        return self.parts[self.members.index(member)]

    def __len__(self) -> int:
        return len(self.ids)


def probabilities_MNC(
    stack: Stack[Probabilities],
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_]]:
    """The members' probabilities as one array, and which classes each member knows.

    Returns:
        `(M, N, C)` probabilities over `stack.classes`, 0 where a member does not know a class, and
        `(M, C)` booleans that are False there. float64 if any member is, else float32. A copy.
    """
    shape = (len(stack.members), len(stack), len(stack.classes))
    dtype = np.result_type(*(part.probs_NC.dtype for part in stack.parts))
    probs_MNC = np.zeros(shape, dtype=dtype)
    known_MC = np.zeros((shape[0], shape[2]), dtype=bool)
    position = {name: index for index, name in enumerate(stack.classes)}
    for index, part in enumerate(stack.parts):
        columns = [position[name] for name in part.classes]
        known_MC[index, columns] = True
        if columns == list(range(len(stack.classes))):
            probs_MNC[index] = part.probs_NC
        else:
            probs_MNC[index][:, columns] = part.probs_NC
    return probs_MNC, known_MC


def known_classes(parts: Sequence[Kind], classes: Sequence[str]) -> tuple[str, ...]:
    """Those of the classes, or other columns, that any part has, in the order given."""
    known = {name for part in parts for name in part.columns}
    return tuple(name for name in classes if name in known)


def rows_of(ids: Ids, wanted: Ids) -> npt.NDArray[np.int64]:
    """`(len(wanted),)` positions of the wanted ids among `ids`, -1 where one is absent."""
    order = np.argsort(ids)
    slot = np.searchsorted(ids, wanted, sorter=order)
    if not len(ids):
        return np.full(len(wanted), -1)
    rows = order[np.minimum(slot, len(ids) - 1)]
    return np.where(ids[rows] == wanted, rows, -1)


def _aligned_rows(name: str, part: K, wanted: Ids, *, exact: bool) -> K:
    if np.array_equal(part.ids, wanted):
        return part
    rows = rows_of(part.ids, wanted)
    missing = wanted[rows < 0]
    extra = part.ids[rows_of(wanted, part.ids) < 0] if exact else np.empty(0, dtype=str)
    if len(missing) or len(extra):
        raise misaligned(name, (len(part), len(wanted)), missing, extra)
    return part.take(rows)


def misaligned(
    name: str, sizes: tuple[int, int], missing: Sequence[str] | Ids, extra: Sequence[str] | Ids
) -> MisalignedMembers:
    """The error for a member that does not predict the rows that the others do.

    Args:
        name: The member.
        sizes: How many rows it predicts, and how many the others do.
        missing: Ids that it lacks.
        extra: Ids that only it has.
    """
    counts = [_counted(missing, "are missing")] if len(missing) else []
    counts += [_counted(extra, "belong to no other row")] if len(extra) else []
    return MisalignedMembers(
        f"'{name}' predicts {sizes[0]:,} rows and others {sizes[1]:,}; {', '.join(counts)}",
        "the same ids from every member",
        "Predict the same split with all members.",
    )


def _counted(ids: Sequence[str] | Ids, what: str) -> str:
    return f"{len(ids):,} ids {what} (first: '{ids[0]}')"


def _class_union(parts: Sequence[Kind], first: Sequence[str]) -> tuple[str, ...]:
    classes = dict.fromkeys(first)
    for part in parts:
        classes.update(dict.fromkeys(part.columns))
    return tuple(classes)
