# SPDX-License-Identifier: Apache-2.0
"""Which row trains, chooses epochs, fits the fusion, or is reported: decided by hashes of ids.

Nothing depends on the order of the rows or on a random state. Without stratification a share is a
threshold on the hash, so that a row's role never changes when others come or go. With
stratification, or with counts, each class's lowest hashes fill a role: exact sizes, and added rows
move only rows at the boundaries.

Shapes: N rows, C classes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from fusetune.errors import InvalidValue, counted
from fusetune.predictions.kinds import Array, Ids

__all__ = ["JUDGED_ROLES", "ROLES", "Pool", "Roles", "assign_roles", "fill", "role_hashes"]

ROLES = ("train", "validation", "holdout", "test")
JUDGED_ROLES = ROLES[1:]
"""Roles whose rows train no member."""
DEFAULT_SHARES = {"test": 0.2, "holdout": 0.2, "validation": 0.1}
"""Filled in this order, so that another validation share leaves the holdout and the test alone."""

Strings = npt.NDArray[np.str_]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Roles:
    """How rows are divided: the recipe's `data.roles`.

    A number below 1 is a share of the divided rows, a whole number a count of rows. Divided are the
    rows whose role nothing else says; a role with a data set or rows of its own takes no share.

    Args:
        validation: Rows for early stopping and the choice of the epoch; None: 0.1.
        holdout: Rows on which the fusion is fitted; None: 0.2, as fusing M members needs more rows
            than choosing an epoch does.
        test: Rows for the one final report; None: 0.2, the usual 80/20 division (scikit-learn's
            default is 0.25).
        train: Rows that fit the members; None: all that the other roles leave.
        stratify: Divide each class in the same proportion, as the rarest class decides how well a
            fusion can be fitted and judged; no role but train takes a class's last row.
        duplicates: `error` refuses byte-identical images in two roles, `keep_first` drops the
            later ones (official test, holdout and validation rows come before the divided ones).
        folds: No holdout is set aside: members are fine-tuned K times, each time without one of K
            folds of the rows that are not for testing, and the fusion is fitted on the union of
            their predictions of the fold that they have not seen. `validation` is then a share, or
            number, of the rows outside a fold. None: one fine-tuning, and a holdout.
        refit: With folds: new rows are predicted by one more model of each member, fine-tuned on
            all rows that are not for testing, in place of the mean of its K models.

    Raises:
        InvalidValue: A share outside (0, 1), a count below 1, shares that add up to more than 1,
            fewer than 2 folds, a size that folds leave no room for, or `refit` without folds.
    """

    validation: float | int | None = None
    holdout: float | int | None = None
    test: float | int | None = None
    train: float | int | None = None
    stratify: bool = True
    duplicates: Literal["error", "keep_first"] = "error"
    folds: int | None = None
    refit: bool = False

    def __post_init__(self) -> None:
        sizes = self.sizes()
        for role, size in sizes.items():
            whole = isinstance(size, int)
            if isinstance(size, bool) or not (size >= 1 if whole else 0 < size < 1):
                raise InvalidValue(
                    f"roles.{role} is {size}",
                    "a share between 0 and 1, or a whole number of rows of at least 1",
                    "Write 0.2 for a fifth of the rows, or 500 for 500 rows.",
                )
        _check_shares(sizes)
        if self.duplicates not in ("error", "keep_first"):
            raise InvalidValue(
                f"roles.duplicates is '{self.duplicates}'",
                "error or keep_first",
                "Write duplicates: keep_first to drop later copies of an image.",
            )
        self._check_folds(sizes)

    def _check_folds(self, sizes: Mapping[str, float | int]) -> None:
        if self.folds is None:
            if self.refit:
                raise InvalidValue(
                    "roles.refit is given without roles.folds",
                    "folds, whose models one model on all rows replaces",
                    "Add folds: 5, or remove refit.",
                )
            return
        if isinstance(self.folds, bool) or self.folds < 2:
            raise InvalidValue(
                f"roles.folds is {self.folds}",
                "a whole number of at least 2",
                "Write folds: 5, or leave it out for one holdout.",
            )
        for role in ("holdout", "train"):
            if role in sizes:
                raise InvalidValue(
                    f"roles.{role} is {sizes[role]}, and roles.folds is {self.folds}",
                    "one of both: with folds, every row that is not for testing trains in most "
                    "folds and is predicted out of fold in one",
                    f"Remove roles.{role} (data.limit bounds the rows), or remove roles.folds.",
                )

    def sizes(self) -> dict[str, float | int]:
        """The shares and counts that were given, by role."""
        return {role: size for role in ROLES if (size := getattr(self, role)) is not None}


def assign_roles(
    ids: Ids,
    labels_N: Integers,
    roles: Roles,
    *,
    seed: int,
    given_N: Strings | None = None,
    limit: int | None = None,
) -> Strings:
    """The role of every row.

    Rows whose given role is `train` or empty are divided: test, holdout and validation take their
    sizes, unless given rows fill that role already, and train takes the rest or its own size.
    Shares are of the divided rows; with a limit, holdout and validation keep their ratio to train.

    Args:
        ids: `(N,)` unique row names.
        labels_N: `(N,)` class codes from 0; what stratification divides by.
        roles: Sizes.
        seed: Another seed is another division.
        given_N: `(N,)` roles from official splits or a role column, "" where nothing is said.
        limit: Most rows of the divided ones that may be train, validation or holdout (the lowest
            of hashes that are independent of the roles'); None: all.

    Returns:
        `(N,)` names of roles; "" for rows that are not used. With folds, all rows that are not for
        testing are `holdout`: the union of the folds; see `deal_folds`.

    Raises:
        InvalidValue: A limit below 1; a size for a role that has rows already; more rows asked for
            than there are.
    """
    if limit is not None and (limit < 1 or isinstance(limit, bool)):
        raise InvalidValue(
            f"data.limit is {limit}",
            "a whole number of at least 1",
            "Leave it out to use all rows.",
        )
    given_N = np.full(len(ids), "", dtype="U10") if given_N is None else given_N.astype("U10")
    divided = np.flatnonzero((given_N == "") | (given_N == "train"))
    sizes = _open_sizes(roles, frozenset(given_N.tolist()))
    strata = labels_N[divided] if roles.stratify else np.zeros(len(divided), dtype=np.int64)
    pool = Pool(ids[divided], strata, seed)
    assigned_N = given_N.copy()
    if roles.stratify or any(isinstance(size, int) for size in sizes.values()):
        assigned_N[divided] = _by_rank(pool, sizes, limit, spare=roles.stratify)
    else:
        assigned_N[divided] = _by_threshold(pool, sizes, limit)
    if roles.folds is not None:
        assigned_N[assigned_N == "train"] = "holdout"
    return assigned_N


def role_hashes(ids: Ids, seed: int, purpose: str = "role") -> npt.NDArray[np.uint64]:
    """`(N,)` 64-bit hashes of (seed, purpose, id) by BLAKE2b, the same on every machine.

    Cost:
        About 1.5 microseconds a row.
    """
    start = hashlib.blake2b(f"{purpose}\0{seed}\0".encode(), digest_size=8)
    hashes = bytearray()
    for name in ids.tolist():
        row = start.copy()
        row.update(name.encode())
        hashes += row.digest()
    return np.frombuffer(bytes(hashes), dtype="<u8").astype(np.uint64)


@dataclass(frozen=True, eq=False)
class Pool:
    """Rows to divide, and the classes to divide them by.

    Args:
        ids: `(N,)` row names.
        strata_N: `(N,)` class codes from 0.
        seed: Of the hashes.
    """

    ids: Ids
    strata_N: Integers
    seed: int

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Array) -> "Pool":
        """Some of the rows."""
        return replace(self, ids=self.ids[rows], strata_N=self.strata_N[rows])

    def sizes(self, rows: Array | slice = slice(None)) -> Integers:
        """`(C,)` rows of each class."""
        num_strata = int(self.strata_N.max(initial=0)) + 1
        return np.bincount(self.strata_N[rows], minlength=num_strata).astype(np.int64)

    def ranks(self, purpose: str) -> Integers:
        """Rank of each row's hash within its class, from 0."""
        hashes_N = role_hashes(self.ids, self.seed, purpose)
        order = np.lexsort((self.ids, hashes_N, self.strata_N))  # ids decide equal hashes
        sizes_C = self.sizes()
        ranks_N = np.empty(len(self), dtype=np.int64)
        starts_C = np.cumsum(sizes_C) - sizes_C
        ranks_N[order] = np.arange(len(self)) - np.repeat(starts_C, sizes_C)
        return ranks_N

    def tie_breaks(self, purpose: str) -> npt.NDArray[np.uint64]:
        """One number per class, so that equal remainders favor other classes in every role."""
        codes = np.arange(len(self.sizes())).astype(str)
        return role_hashes(codes, self.seed, f"tie {purpose}")


def _open_sizes(roles: Roles, given: frozenset[str]) -> dict[str, float | int]:
    """Sizes to fill, test first and train last; a default for what has neither rows nor a size."""
    asked = roles.sizes()
    twice = [role for role in asked if role in given and role != "train"]
    if twice:
        raise InvalidValue(
            f"roles.{twice[0]} is {asked[twice[0]]}, but rows for {twice[0]} are given already",
            "each role to come from one place",
            f"Remove roles.{twice[0]}, or the data set or role column that gives these rows.",
        )
    if roles.folds is not None:
        return _open_sizes_with_folds(roles, given)
    sizes = {
        role: asked.get(role, share) for role, share in DEFAULT_SHARES.items() if role not in given
    }
    sizes |= {"train": asked["train"]} if "train" in asked else {}
    _check_shares(sizes)
    return sizes


def _open_sizes_with_folds(roles: Roles, given: frozenset[str]) -> dict[str, float | int]:
    """Only the test rows are set aside."""
    fixed = [role for role in ("validation", "holdout") if role in given]
    if fixed:
        raise InvalidValue(
            f"roles.folds is {roles.folds}, and rows for {fixed[0]} are given",
            "rows that folds may divide, and test rows: every fold has its own validation and "
            "holdout rows",
            f"Give the {fixed[0]} rows the role train, or remove roles.folds.",
        )
    share = DEFAULT_SHARES["test"] if roles.test is None else roles.test
    return {} if "test" in given else {"test": share}


def _check_shares(sizes: Mapping[str, float | int]) -> None:
    shares = {role: size for role, size in sizes.items() if isinstance(size, float)}
    total = sum(shares.values())
    if total > 1 + 1e-9 or (total > 1 - 1e-9 and "train" not in sizes):
        raise InvalidValue(
            f"the shares of {', '.join(f'{role} ({share:g})' for role, share in shares.items())} "
            f"add up to {total:g}",
            "at most 1, with something left to train on",
            "Make some of them smaller.",
        )


def _by_threshold(pool: Pool, sizes: Mapping[str, float | int], limit: int | None) -> Strings:
    """Roles by thresholds on the hash alone: exactly stable, sizes only about the shares."""
    uniform_N = role_hashes(pool.ids, pool.seed) / 2.0**64
    bounds = np.cumsum(list(sizes.values()))
    names = np.array([*sizes, "" if "train" in sizes else "train"], dtype="U10")
    roles_N = names[np.searchsorted(bounds, uniform_N, side="right")]
    limited = np.flatnonzero((roles_N != "test") & (roles_N != ""))
    if limit is not None and limit < len(limited):
        roles_N[limited[pool.take(limited).ranks("limit") >= limit]] = ""
    return roles_N


def _by_rank(
    pool: Pool, sizes: Mapping[str, float | int], limit: int | None, *, spare: bool
) -> Strings:
    """Roles by each class's lowest hashes: exact sizes. `spare` keeps a row per class for train."""
    roles_N = np.full(len(pool), "", dtype="U10")
    rest = np.arange(len(pool))
    share_left = 1.0
    if "test" in sizes:
        count = _count(sizes["test"], len(pool))
        taken = fill(pool, rest, "test", count, least=0, spare=spare)
        roles_N[taken] = "test"
        share_left = 1 - count / max(1, len(pool))
        rest = np.flatnonzero(roles_N == "")
    if limit is not None and limit < len(rest):
        rest = np.sort(fill(pool, rest, "limit", limit, least=1, spare=False))
    num_divided = len(rest) / share_left if share_left else 0.0
    for role in [role for role in sizes if role != "test"]:
        count = _count(sizes[role], num_divided)
        last = role == "train"
        taken = fill(pool, rest, role, count, least=int(last), spare=spare and not last)
        roles_N[taken] = role
        rest = rest[roles_N[rest] == ""]
    if "train" not in sizes:
        roles_N[rest] = "train"
    return roles_N


def _count(size: float | int, num_rows: float) -> int:
    return size if isinstance(size, int) else round(size * num_rows)


def fill(
    pool: Pool,
    rows: Integers,
    role: str,
    count: int,
    *,
    least: int,
    spare: bool,
) -> Integers:
    """The rows of each class with the lowest hashes, `count` in all, in proportion to the classes.

    Args:
        pool: All rows.
        rows: Positions of those to choose from.
        role: What they are for.
        count: How many.
        least: Rows that every class gives at least, where `count` suffices for that.
        spare: Keep a row of each class.
    """
    part = pool.take(rows)
    sizes_C = part.sizes()
    room_C = np.maximum(sizes_C - 1, 0) if spare else sizes_C
    if count > room_C.sum():
        raise InvalidValue(
            f"{role} asks for {counted(count, 'row')}, and {int(room_C.sum()):,} can be had",
            "sizes that together do not exceed the rows"
            + (", with one of each class left for train" * spare),
            "Make the roles smaller, raise the limit, or add rows.",
        )
    tie_C = pool.tie_breaks(role)[: len(sizes_C)]
    least_C = np.minimum(least, sizes_C) if count >= np.count_nonzero(sizes_C) else 0 * sizes_C
    quota_C = least_C + _apportion(
        count - int(least_C.sum()), sizes_C - least_C, room_C - least_C, tie_C
    )
    purpose = "role" if role in ROLES else role
    return rows[part.ranks(purpose) < quota_C[part.strata_N]]


def _apportion(
    count: int, sizes_C: Integers, room_C: Integers, tie_C: npt.NDArray[np.uint64]
) -> Integers:
    """Divide `count` rows over classes in proportion to their sizes, by largest remainders.

    A class gets no more than its room; what it cannot take goes to the next largest remainders.
    Whole-number arithmetic, so that every machine agrees.
    """
    total = max(1, int(sizes_C.sum()))
    quota_C = np.minimum(count * sizes_C // total, room_C)
    remainder_C = count * sizes_C - quota_C * total
    while (missing := count - int(quota_C.sum())) > 0:
        order = np.lexsort((tie_C, -remainder_C))
        chosen = order[quota_C[order] < room_C[order]][:missing]
        quota_C[chosen] += 1
        remainder_C[chosen] -= total
    return quota_C
