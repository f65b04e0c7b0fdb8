# SPDX-License-Identifier: Apache-2.0
"""Which rows each of K models of a member is fine-tuned on, and which it predicts out of fold.

As with roles, all follows from hash(seed, id): the order of the rows is irrelevant, and added rows
move only rows at the boundaries between folds.

Shapes: N rows, C classes, K folds.
"""

from dataclasses import dataclass

import numpy as np

from fusetune.data.roles import Integers, Pool, Roles, Strings, fill, role_hashes
from fusetune.errors import InvalidValue, counted
from fusetune.predictions.kinds import Ids

__all__ = ["Folds", "deal_folds"]

INNER_SHARE = 0.1
"""Of the rows outside a fold, for the choice of the epoch: what `roles.validation` is by default."""


@dataclass(frozen=True, eq=False)
class Folds:
    """How the rows that are not for testing are dealt into folds.

    Args:
        folds_N: `(N,)` fold numbers from 0; -1 for test rows.
        roles_KN: `(K, N)` roles of all rows in each fold: its own rows are its `holdout`, which its
            model neither trains on nor chooses its epoch by.
    """

    folds_N: Integers
    roles_KN: Strings

    def __len__(self) -> int:
        return len(self.roles_KN)

    def names(self) -> Strings:
        """`(N,)` names for people: the same for rows that have the same role in every fold."""
        chosen_KN = self.roles_KN == "validation"
        return np.array(
            [
                f"fold {fold + 1}"
                + "".join(f", validation of {k + 1}" for k in np.flatnonzero(chosen_KN[:, row]))
                for row, fold in enumerate(self.folds_N.tolist())
            ]
        )

    def refit_roles(self) -> Strings:
        """`(N,)` roles for one model that trains on every row that is not for testing."""
        return np.where(self.folds_N < 0, "test", "train").astype("U10")


def deal_folds(ids: Ids, labels_N: Integers, roles_N: Strings, roles: Roles, *, seed: int) -> Folds:
    """Deal the rows that are not for testing into folds, and divide the others for each fold.

    With stratification the rows of a class, in the order of their hashes, are cut into K pieces
    whose sizes differ by at most one; which folds get one more is drawn for each class. Without,
    the fold is a threshold on the hash. Of the rows outside a fold, those with the lowest of other
    hashes, drawn for each fold, choose the epoch: every row trains in most folds.

    Args:
        ids: `(N,)` unique row names.
        labels_N: `(N,)` class codes from 0; what stratification divides by.
        roles_N: `(N,)` names of roles: `test`, and anything else for rows to deal.
        roles: `folds`, and `validation`: share or number of the rows outside a fold that choose
            the epoch; None: 0.1.
        seed: Another seed deals the rows differently.

    Raises:
        InvalidValue: A class with fewer rows than folds, a fold without rows, or too few rows to
            choose the epoch by.
    """
    assert roles.folds is not None
    dealt = np.flatnonzero(roles_N != "test")
    strata = labels_N[dealt] if roles.stratify else np.zeros(len(dealt), dtype=np.int64)
    pool = Pool(ids[dealt], strata, seed)
    found = _by_rank(pool, roles.folds) if roles.stratify else _by_threshold(pool, roles.folds)
    _check_filled(found, roles.folds)
    folds_N = np.full(len(ids), -1, dtype=np.int64)
    folds_N[dealt] = found
    roles_KN = np.full((roles.folds, len(ids)), "test", dtype="U10")
    for fold in range(roles.folds):
        inside, others = dealt[found == fold], np.flatnonzero(found != fold)
        roles_KN[fold, dealt] = "train"
        roles_KN[fold, inside] = "holdout"
        count = _inner_rows(roles, len(others))
        purpose = f"validation of fold {fold + 1}"
        taken = fill(pool, others, purpose, count, least=0, spare=roles.stratify)
        roles_KN[fold, dealt[taken]] = "validation"
    return Folds(folds_N, roles_KN)


def _inner_rows(roles: Roles, num_others: int) -> int:
    size = INNER_SHARE if roles.validation is None else roles.validation
    count = size if isinstance(size, int) else max(1, round(size * num_others))
    if count >= num_others:
        raise InvalidValue(
            f"roles.validation is {size}, and {counted(num_others, 'row')} are outside a fold",
            "fewer rows to choose the epoch by than to train on",
            "Make roles.validation smaller, or add rows.",
        )
    return count


def _by_rank(pool: Pool, folds: int) -> Integers:
    """Pieces of each class's rows, in the order of their hashes."""
    sizes_C = pool.sizes()
    # Those folds get one more of a class whose hashes are lowest: one row more of it enlarges
    # one fold, and moves rows of that class only.
    names = [f"{code} {fold}" for code in range(len(sizes_C)) for fold in range(folds)]
    draws_CK = role_hashes(np.array(names), pool.seed, "larger fold").reshape(-1, folds)
    places_CK = draws_CK.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    sizes_CK = sizes_C[:, None] // folds + (places_CK < (sizes_C % folds)[:, None])
    ends_CK = sizes_CK.cumsum(axis=1)
    ranks_N = pool.ranks("fold")
    fold_N: Integers = (ranks_N[:, None] >= ends_CK[pool.strata_N]).sum(axis=1)
    return fold_N


def _by_threshold(pool: Pool, folds: int) -> Integers:
    uniform_N = role_hashes(pool.ids, pool.seed, "fold") / 2.0**64
    return np.minimum((uniform_N * folds).astype(np.int64), folds - 1)


def _check_filled(folds_N: Integers, folds: int) -> None:
    if np.bincount(folds_N, minlength=folds).min() == 0:
        raise InvalidValue(
            f"roles.folds is {folds}, and a fold is empty ({counted(len(folds_N), 'row')} in all)",
            "rows in every fold",
            "Lower roles.folds, or add rows.",
        )
