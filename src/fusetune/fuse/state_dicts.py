# SPDX-License-Identifier: Apache-2.0
"""Arithmetic of state dicts: checked, combined linearly, named by a checksum.

Sums are taken in double precision and in the order of the members' names, so that the order in which
members are given changes no bit; results have the members' own types.
"""

import hashlib
from collections.abc import Callable, Mapping

import numpy as np

from fusetune.errors import WeightsError, name_some
from fusetune.fuse.soup import Ingredients, State, Tensor
from fusetune.predictions.kinds import Floats

__all__ = ["averaged", "change_of", "check_states", "combined", "measured", "state_checksum"]

Change = Callable[[str, Tensor], Floats]


def check_states(states: Mapping[str, State]) -> None:
    """Refuse state dicts that cannot be averaged.

    Args:
        states: Whose weights they are → the weights.

    Raises:
        WeightsError: Names, shapes or types differ, or a weight is not finite; the tensor is named.
    """
    first, *others = states
    for name, tensor in states[first].items():
        if tensor.dtype.kind not in "fiub":
            raise WeightsError(
                f"'{name}' of '{first}' has the type {tensor.dtype}",
                "real or whole numbers",
                "Leave this member out of the soup.",
            )
    for other in others:
        _check_alike(first, states[first], other, states[other])
    for owner, state in states.items():
        for name, tensor in state.items():
            if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
                raise WeightsError(
                    f"'{name}' of '{owner}' holds NaN or infinity",
                    "finite weights",
                    "Leave this member out of the soup, or lower its learning rate.",
                )


def _check_alike(first: str, expected: State, other: str, given: State) -> None:
    remedy = "Make soups of members of one architecture; fuse the predictions of others."
    if differing := sorted(set(expected) ^ set(given)):
        owner = first if differing[0] in expected else other
        raise WeightsError(
            f"only '{owner}' has the weights {name_some(differing)}, of '{first}' and '{other}'",
            "the same names in both",
            remedy,
        )
    for name, tensor in expected.items():
        one, two = (tensor.shape, tensor.dtype), (given[name].shape, given[name].dtype)
        if one != two:
            raise WeightsError(
                f"'{name}' is {_described(*one)} in '{first}' and {_described(*two)} in '{other}'",
                "the same shape and type in both",
                remedy,
            )


def _described(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> str:
    return f"{'×'.join(map(str, shape)) or 'a number'} ({dtype})"


def averaged(ingredients: Ingredients, weights: Mapping[str, float] | None = None) -> State:
    """The weighted average of the members; a member that has all weight is given as it is.

    Args:
        ingredients: As they are.
        weights: Member → weight, summing to 1; None: all alike.
    """
    names = list(ingredients.members)
    weights = dict.fromkeys(names, 1 / len(names)) if weights is None else weights
    used = {name: weight for name, weight in weights.items() if weight}
    if len(used) == 1:
        return ingredients.members[next(iter(used))].state
    return measured(ingredients, lambda name, _: _sum(ingredients, name, used))


def combined(ingredients: Ingredients, scaling: float) -> State:
    """The start + scaling (average of the members - start); at a scaling of 1 the average itself."""
    assert ingredients.start is not None
    if scaling == 1:
        return averaged(ingredients)
    start = ingredients.start
    weights = dict.fromkeys(ingredients.members, scaling / len(ingredients.members))

    def between(name: str, _: Tensor) -> Floats:
        return (1 - scaling) * start[name].astype(float) + _sum(ingredients, name, weights)

    return measured(ingredients, between)


def measured(ingredients: Ingredients, value: Change) -> State:
    """The weights that a function gives: whole numbers are the best member's, statistics averages.

    Args:
        ingredients: As they are.
        value: From a tensor's name, and the best member's, to its new values.
    """
    best = ingredients.members[ingredients.best].state
    alike = dict.fromkeys(ingredients.members, 1 / len(ingredients.members))
    result = {}
    for name, tensor in best.items():
        if tensor.dtype.kind != "f":
            result[name] = tensor
        elif name in ingredients.statistics:
            result[name] = _sum(ingredients, name, alike).astype(tensor.dtype)
        else:
            result[name] = np.asarray(value(name, tensor)).astype(tensor.dtype)
    return result


def change_of(ingredients: Ingredients, member: str, name: str) -> Floats:
    """A member's task vector at one tensor: how far it moved from the start, in double precision."""
    assert ingredients.start is not None
    moved = ingredients.members[member].state[name].astype(float)
    return np.asarray(moved - ingredients.start[name].astype(float))


def _sum(ingredients: Ingredients, name: str, weights: Mapping[str, float]) -> Floats:
    """Sum of weight times tensor; equal weights come last, so that equal members stay as they are."""
    parts = {member: ingredients.members[member].state[name] for member in sorted(weights)}
    total = np.zeros(next(iter(parts.values())).shape)
    equal = len(set(weights.values())) == 1
    for member, tensor in parts.items():
        total += tensor.astype(float) * (1.0 if equal else weights[member])
    if not equal:
        return total
    num = len(parts)
    return total / num * (num * next(iter(weights.values())))


def state_checksum(state: State) -> str:
    """SHA-256 of a state dict's names, types, shapes and bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = np.ascontiguousarray(state[name])
        digest.update(f"{name}|{tensor.dtype.str}|{tensor.shape}|".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
