# SPDX-License-Identifier: Apache-2.0
"""All members' boxes in groups of one row and class, and fused boxes made of such groups.

Shapes: M members, N rows, C classes, K boxes, G groups that hold boxes, L fused boxes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fusetune.errors import MisalignedMembers
from fusetune.predictions.detection.boxes import Boxes
from fusetune.predictions.kinds import Array, Floats
from fusetune.predictions.ragged import Offsets, offsets_of
from fusetune.predictions.stack import Stack
from fusetune.predictions.targets import replaced
from fusetune.predictions.threads import in_threads

__all__ = ["Pooled", "by_blocks", "knows_MC", "made_of", "pooled"]

BLOCK = 2**16  # boxes that are fused at a time, by one thread


@dataclass(frozen=True, eq=False)
class Pooled:
    """Boxes by row, class and falling weighted score; ties by their corners, not by their member.

    Args:
        stack: Whose boxes they are.
        rows_G: `(G,)` row of each group.
        labels_G: `(G,)` class of each group, among the stack's.
        starts: `(G + 1,)` where each group begins.
        boxes_K4: `(K, 4)` boxes in double precision, none without an area.
        scores_K: `(K,)` scores.
        weights_K: `(K,)` weights of their members for their class, above 0.
        members_K: `(K,)` their members.
    """

    stack: Stack[Boxes]
    rows_G: Offsets
    labels_G: Offsets
    starts: Offsets
    boxes_K4: Floats
    scores_K: Floats
    weights_K: Floats
    members_K: Offsets

    @property
    def groups_K(self) -> Offsets:
        """`(K,)` the group of each box."""
        return np.repeat(np.arange(len(self.rows_G)), np.diff(self.starts))


def pooled(stack: Stack[Boxes], weights_MC: Floats, skip: Floats | float = 0.0) -> Pooled:
    """The boxes that take part.

    Args:
        stack: Members' boxes.
        weights_MC: Weights of the members for each of the stack's classes, at least 0; a member's
            boxes of a class in which it has no weight are left out.
        skip: Scores below it are left out; one number, or one for each class.

    Raises:
        MisalignedMembers: Some members give pixels and others shares of the image.
    """
    units = {part.relative for part in stack.parts}
    if len(units) > 1:
        shares = [n for n, part in zip(stack.members, stack.parts, strict=True) if part.relative]
        raise MisalignedMembers(
            f"'{shares[0]}' gives boxes as shares of the image, and others in pixels",
            "one unit from every member",
            "Convert the boxes of one of them.",
        )
    skip_C = np.broadcast_to(np.asarray(skip, dtype=np.float64), len(stack.classes))
    place = {name: index for index, name in enumerate(stack.classes)}
    columns: list[list[Array]] = [[] for _ in range(5)]
    for index, part in enumerate(stack.parts):
        if not len(part.scores_K) and any(len(other.scores_K) for other in stack.parts):
            continue
        labels_K = part.labels_K
        if part.classes != stack.classes:
            labels_K = np.array([place[name] for name in part.classes] or [0])[labels_K]
        boxes_K4 = part.boxes_K4.astype(np.float64)
        scores_K = part.scores_K.astype(np.float64)
        weights_K = weights_MC[index][labels_K]
        axes = boxes_K4.shape[1] // 2
        sides_K2 = boxes_K4[:, axes:] - boxes_K4[:, :axes]
        kept = (sides_K2 > 0).all(axis=1) & (sides_K2.prod(axis=1) > 0)  # a product may vanish
        kept &= (weights_K > 0) & (scores_K >= skip_C[labels_K])
        keys_K = part.rows_K * len(stack.classes) + labels_K
        members_K = np.full(len(keys_K), index)
        found = (keys_K, boxes_K4, scores_K, weights_K, members_K)
        for column, values in zip(columns, found, strict=True):
            column.append(values if kept.all() else values[kept])
    keys_K, boxes_K4, scores_K, weights_K, members_K = map(np.concatenate, columns)
    order = _order(keys_K, scores_K * weights_K, boxes_K4)
    keys_K = keys_K[order]
    first_K = np.append(True, keys_K[1:] != keys_K[:-1])[: len(keys_K)]
    rows_G, labels_G = np.divmod(keys_K[first_K], max(1, len(stack.classes)))
    starts = np.append(np.flatnonzero(first_K), len(keys_K)).astype(np.int64)
    sorted_K = (boxes_K4[order], scores_K[order], weights_K[order], members_K[order])
    return Pooled(stack, rows_G, labels_G, starts, *sorted_K)


def made_of(pool: Pooled, groups_L: Array, boxes_L4: Floats, scores_L: Floats) -> Boxes:
    """Fused boxes of groups, each row's by falling score, in the members' widest precision."""
    stack = pool.stack
    rows_L, labels_L = pool.rows_G[groups_L], pool.labels_G[groups_L]
    order = np.lexsort((-scores_L, rows_L))
    dtype = np.result_type(*(part.boxes_K4.dtype for part in stack.parts))
    known_C = np.any(knows_MC(stack), axis=0).reshape(-1)
    places_C = np.cumsum(known_C) - 1
    return replaced(
        stack.parts[0],
        classes=tuple(name for name, known in zip(stack.classes, known_C, strict=True) if known),
        offsets=offsets_of(np.bincount(rows_L, minlength=len(stack))),
        boxes_K4=boxes_L4[order].astype(dtype),
        scores_K=np.clip(scores_L[order], 0, 1).astype(dtype),
        labels_K=places_C[labels_L[order]] if len(places_C) else labels_L[order],
    )


def knows_MC(stack: Stack[Boxes]) -> Array:
    """`(M, C)` which of the stack's classes each member knows."""
    knows = np.ones((len(stack.parts), len(stack.classes)), dtype=bool)
    for row, part in zip(knows, stack.parts, strict=True):
        if part.classes != stack.classes:
            own = set(part.classes)
            row[:] = [name in own for name in stack.classes]
    return knows


def by_blocks(stack: Stack[Boxes], fuse: Callable[[Stack[Boxes]], Boxes]) -> Boxes:
    """The rows fused in blocks, as many at a time as there are processors.

    A row's result does not depend on the others', nor on the number of processors.
    """
    counts_N = np.sum([np.diff(part.offsets) for part in stack.parts], axis=0)
    block_N = np.cumsum(counts_N) // BLOCK
    if not len(block_N) or block_N[-1] == block_N[0]:
        return fuse(stack)
    cuts = np.flatnonzero(np.diff(block_N)) + 1
    blocks = [stack.take(rows) for rows in np.split(np.arange(len(stack)), cuts)]
    return Boxes.concat(in_threads(fuse, blocks))


def _order(keys_K: Offsets, scores_K: Floats, boxes_K4: Floats) -> Offsets:
    order = np.lexsort((-scores_K, keys_K))
    keys, scores = keys_K[order], scores_K[order]
    if not ((keys[1:] == keys[:-1]) & (scores[1:] == scores[:-1])).any():
        return order
    return np.lexsort((*boxes_K4.T[::-1], -scores_K, keys_K))
