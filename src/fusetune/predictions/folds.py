# SPDX-License-Identifier: Apache-2.0
"""Folds for cross-fitting: fixed by seed, id and stratum, whatever the order of the rows.

Shapes: N rows.
"""

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fusetune.predictions.kinds import Ids
from fusetune.predictions.targets import GroundTruth

__all__ = ["dealt_share", "hashes", "stratified_folds", "stratified_share"]


def stratified_folds(targets: GroundTruth, folds: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """`(N,)` fold numbers, every stratum and every fold as evenly filled as counts allow.

    Strata are classes, and what `strata_N` says for other targets. Within a stratum, rows are
    dealt out in the order of hash(seed, id); a stratum goes on where the one before it stopped, so
    that fold sizes differ by at most 1.

    Args:
        targets: Ids and strata of the rows.
        folds: Number of folds, at least 1; with more folds than rows some stay empty.
        seed: Deals the rows differently.
    """
    order = _dealing_order(targets, seed)
    folds_N = np.empty(len(order), dtype=np.int64)
    folds_N[order] = np.arange(len(order)) % folds
    return folds_N


def stratified_share(targets: GroundTruth, share: float, seed: int = 0) -> npt.NDArray[np.bool_]:
    """`(N,)` booleans, True for a share of the rows in (0, 1), the same share of every stratum.

    Within a stratum, rows are taken by hash(seed, id); sizes are exact to one row.
    """
    return dealt_share(_dealing_order(targets, seed), share)


def dealt_share(order: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.bool_]:
    """`(N,)` booleans, True for every so-manieth row in the order given, evenly spread."""
    reached_N = np.floor(np.arange(len(order) + 1) * share + 0.5)
    taken_N = np.empty(len(order), dtype=bool)
    taken_N[order] = np.diff(reached_N) > 0
    return taken_N


def hashes(ids: Ids, seed: int) -> npt.NDArray[np.uint64]:
    """`(N,)` numbers that depend on nothing but the seed and each id, the same on every machine."""
    digests = b"".join([_digest(seed, name) for name in ids.tolist()])
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


@lru_cache(maxsize=2**16)
def _digest(seed: int, name: str) -> bytes:
    """Kept, for nested choices deal the same rows to folds again and again."""
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()


def _dealing_order(targets: GroundTruth, seed: int) -> npt.NDArray[np.int64]:
    """Rows stratum by stratum, within one by hash(seed, id)."""
    return np.lexsort((targets.ids, hashes(targets.ids, seed), targets.strata_N))
