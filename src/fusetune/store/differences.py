# SPDX-License-Identifier: Apache-2.0
"""What changed between the inputs of two steps, in words."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["differences"]

HASH = re.compile(r"[0-9a-f]{12,64}")
LONGEST = 40


def differences(before: Any, after: Any) -> list[str]:  # noqa: ANN401
    """One phrase per input that differs, by its name; values are shown unless they are checksums.

    Example:
        >>> differences({"seed": 0, "finetune": {"epochs": 3}}, {"seed": 0, "finetune": {"epochs": 5}})
        ['finetune.epochs: 3 → 5']
    """
    return list(_found(before, after, ""))


def _found(old: Any, new: Any, name: str) -> Iterator[str]:  # noqa: ANN401
    if _divided(old) and _divided(new):
        old, new = _parts(old), _parts(new)
        for key in dict.fromkeys((*new, *old)):
            inner = f"{name}.{key}" if name else key
            if key in old and key in new:
                yield from _found(old[key], new[key], inner)
            else:
                yield f"{inner} is {'new' if key in new else 'gone'}"
    elif old != new:
        hidden = any(HASH.fullmatch(str(v)) or len(str(v)) > LONGEST for v in (old, new))
        yield f"{name or 'inputs'} changed" if hidden else f"{name or 'inputs'}: {old} → {new}"


def _divided(value: Any) -> bool:  # noqa: ANN401
    """Whether its parts are named; lists of plain values stay whole."""
    return isinstance(value, Mapping) or (
        isinstance(value, list) and any(isinstance(item, Mapping) for item in value)
    )


def _parts(value: Any) -> dict[str, Any]:  # noqa: ANN401
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    return {str(key): item for key, item in pairs}
