# SPDX-License-Identifier: Apache-2.0
"""What masks that are made of the same masks share: what is read side by side, and the masks themselves.

Eight fusions of three members ask for the same bands of the members, and a blend for those of the fusions.
"""

import threading
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from fusetune.predictions.threads import num_processors

__all__ = ["IMAGES_AT_ONCE", "made_once", "once_inside", "put_inside", "sharing"]

IMAGES_AT_ONCE = min(8, num_processors())
"""Images that are worked on side by side; each takes about as much memory as one of its masks."""

T = TypeVar("T")

_DESK = threading.local()
_MADE: "weakref.WeakValueDictionary[Hashable, Any]" = weakref.WeakValueDictionary()


@contextmanager
def sharing() -> Iterator[None]:
    """Inside, what this thread computes by `once_inside` is kept for whoever asks for it again.

    Open it for a small piece of work, one band of all masks or the label maps of one image: all is kept
    until the end. Inside of another, it starts anew.
    """
    outer = getattr(_DESK, "kept", None)
    _DESK.kept = {}
    try:
        yield
    finally:
        _DESK.kept = outer


def once_inside(key: Hashable, compute: Callable[[], T]) -> T:
    """What `compute` gives: for the same key, once inside of the innermost `sharing`."""
    kept: dict[Hashable, Any] | None = getattr(_DESK, "kept", None)
    if kept is None:
        return compute()
    if key not in kept:
        kept[key] = compute()
    return cast(T, kept[key])


def put_inside(key: Hashable, found: Any) -> None:  # noqa: ANN401
    """What `once_inside` will give for a key, inside of the innermost `sharing`."""
    kept: dict[Hashable, Any] | None = getattr(_DESK, "kept", None)
    assert kept is not None
    kept[key] = found


def made_once(key: Hashable, make: Callable[[], T]) -> T:
    """What `make` gives, or what it gave for this key before, if somebody still holds it."""
    made = _MADE.get(key)
    if made is None:
        made = make()
        _MADE[key] = made
    return cast(T, made)
