# SPDX-License-Identifier: Apache-2.0
"""Every exception that fusetune raises for people.

    FusetuneError                 three parts: what was given, what was expected, what to do
    ├── UsageError                found before any work (exit code 2)
    │   ├── InvalidValue          a number, name or option outside what it may be
    │   │   ├── UnknownName       no plug-in, model, column or key of that name; the nearest is offered
    │   │   └── RecipeError       a recipe that cannot be read, or says something impossible
    │   ├── MissingExtra          an optional dependency that is not installed
    │   ├── DataError             rows, images, labels or roles that cannot be used
    │   ├── PredictionError       a prediction or targets file that breaks its kind's rules
    │   │   └── MisalignedMembers members that disagree on rows or classes
    │   ├── WeightsError          a weights file that does not fit its model
    │   └── RunLocked             another process works in the run folder
    └── WorkError                 the work itself failed (exit code 1)
        ├── FileFailed            the system would not read or write a file: disk full, a limit, rights
        ├── MemberFailed          one member crashed, diverged or ran out of memory
        └── NoMembersLeft         every member failed

Programming mistakes of ours are `assert`s and keep their traceback.
"""

import difflib
import errno
import os
import re
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "DataError",
    "FileFailed",
    "FusetuneError",
    "InvalidValue",
    "MemberFailed",
    "MisalignedMembers",
    "MissingExtra",
    "NoMembersLeft",
    "PredictionError",
    "RecipeError",
    "RunLocked",
    "UnknownName",
    "UsageError",
    "WeightsError",
    "WorkError",
    "counted",
    "name_some",
    "unknown_name",
]


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
OS_ERROR = re.compile(r"\(os error (\d+)\)")
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


class FusetuneError(Exception):
    """An error for people: one paragraph of what was given, what was expected, what to do.

    Args:
        given: What was found, naming the offender, without a final stop.
        expected: What would have been accepted; completes "expected ...".
        remedy: One or two whole sentences that say what to do.

    Example:
        >>> print(InvalidValue("epochs is -3", "a whole number of at least 1", "Set epochs: 10."))
        epochs is -3; expected a whole number of at least 1. Set epochs: 10.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, given: str, expected: str, remedy: str) -> None:
        super().__init__(given, expected, remedy)
        self.given, self.expected, self.remedy = given, expected, remedy

    def __str__(self) -> str:
        return f"{self.given}; expected {self.expected}. {self.remedy}"


class UsageError(FusetuneError):
    """Found before any work: nothing was written."""

    exit_code = 2


class InvalidValue(UsageError, ValueError):
    """A number, name or option outside what it may be; a `ValueError` to other libraries."""


class UnknownName(InvalidValue):
    """No plug-in, model, column or key of that name."""


class RecipeError(InvalidValue):
    """A recipe that cannot be read, or that says something impossible."""


class MissingExtra(UsageError):
    """An optional dependency that is not installed."""


class DataError(UsageError):
    """Rows, images, labels or roles that cannot be used."""


class PredictionError(UsageError):
    """A prediction or targets file that breaks the rules of its kind."""


class MisalignedMembers(PredictionError):
    """Members that disagree on rows or classes."""


class WeightsError(UsageError):
    """A weights file that does not fit its model."""


class RunLocked(UsageError):
    """Another process works in the run folder."""


class WorkError(FusetuneError):
    """The work itself failed."""


class FileFailed(WorkError):
    """The system would not read or write a file: the disk is full, a limit, no permission."""

    @classmethod
    def of(cls, error: OSError) -> "FileFailed":
        """The same as an error for people."""
        reason = " ".join(str(error).split()).rstrip(".")
        return cls(
            f"the system refused: {reason}",
            "room and permission to read and write files",
            "Free space, raise the limit or correct the permissions, and run the same command again: "
            "what was finished stays.",
        )

    @classmethod
    def found_in(cls, error: BaseException) -> "FileFailed | None":
        """The same of a full or read-only disk behind an error, whichever library wrote."""
        cause: BaseException | None = error
        while cause is not None:
            number = cause.errno if isinstance(cause, OSError) else None
            if told := OS_ERROR.search(str(cause)):  # safetensors' own errors
                number = int(told.group(1))
            if number in NO_ROOM:
                return cls.of(OSError(number, os.strerror(number)))
            if isinstance(cause, OSError) and SHORT_WRITE.fullmatch(str(cause)):  # NumPy's
                return cls.of(cause)
            cause = cause.__cause__ or cause.__context__
        return None


class MemberFailed(WorkError):
    """One member crashed, diverged or ran out of memory."""


class NoMembersLeft(WorkError):
    """Every member failed, so there is nothing to fuse."""


def name_some(names: Iterable[str], most: int = 5) -> str:
    """List the first names in quotes, and count the rest.

    Example:
        >>> name_some(["a", "b", "c"], most=2)
        "'a', 'b' and 1 more"
    """
    names = list(names)
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def counted(number: int, noun: str) -> str:
    """A number of things in words.

    Example:
        >>> counted(1, "row"), counted(1200, "image"), counted(2, "copy"), counted(2, "box")
        ('1 row', '1,200 images', '2 copies', '2 boxes')
    """
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    if noun.endswith(("s", "x")):
        plural = f"{noun}es"
    return f"{number:,} {noun if number == 1 else plural}"


def unknown_name(
    what: str,
    name: str,
    known: Iterable[str],
    *,
    where: str = "",
    error: type[FusetuneError] = UnknownName,
) -> FusetuneError:
    """Build the error for a name that is not among the known ones, with the nearest offered.

    Example:
        >>> print(unknown_name("fusion method", "meen", ["mean", "vote"]))
        no fusion method is called 'meen'; expected one of mean, vote. Did you mean 'mean'?
    """
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    remedy = f"Did you mean '{nearest[0]}'?" if nearest else "Choose one of these names."
    listed = ", ".join(known[:30]) + (f" and {len(known) - 30} more" if len(known) > 30 else "")
    place = f" ({where})" if where else ""
    return error(f"no {what} is called '{name}'{place}", f"one of {listed or '(none)'}", remedy)
