# SPDX-License-Identifier: Apache-2.0
"""Fitted objects, and how they are saved: JSON for what they say, .npy for arrays, never a pickle.

A fitted object (a fusion, a calibration) is a frozen dataclass of arrays, numbers, strings, tuples
and fitted objects, so one serializer by fields serves them all. The same object gives the same
bytes, and a loaded one predicts the same bits.
"""

import importlib
import json
from dataclasses import fields, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fusetune.atomic import replacing
from fusetune.errors import InvalidValue, UnknownName, unknown_name

__all__ = ["Fitted", "load_fitted", "save_fitted"]

FILE = "fusion.json"
VERSION = 1
OWN = ("fusetune.fuse.", "fusetune.calibrate.", "fusetune.calibrated.")
GROUPS = ("fusetune.fuse.methods", "fusetune.calibrate.calibrators")


class Fitted:
    """A frozen dataclass of arrays, numbers, strings, tuples and nested fitted objects only."""

    def check_savable(self) -> None:
        """Raise an error that says why, if it cannot be saved; parts are asked by themselves."""


def save_fitted(fusion: Fitted, folder: Path) -> None:
    """Write a fitted object into a folder, which is made if it is not there.

    `fusion.json` is written last, under a temporary name that is then renamed: where it exists, the
    fusion is complete.

    Args:
        fusion: A frozen dataclass; fields that `__init__` does not take are not saved.
        folder: Where to; other files in it stay.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    saved = {"version": VERSION, "fusion": _pack(fusion, arrays, "")}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / name, array, allow_pickle=False)
    text = json.dumps(saved, indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(folder / FILE) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def load_fitted(folder: Path) -> Fitted:
    """Read what `save_fitted` wrote.

    Only classes of fusetune's own modules of fitted objects, or of registered plug-ins, are
    built, and arrays are read without unpickling: a saved fusion cannot run foreign code.

    Raises:
        InvalidValue: There is no saved fusion, or it is damaged or from a newer version.
        UnknownName: It is of a form that is not installed.
    """
    folder = Path(folder)
    path = folder / FILE
    if not path.is_file():
        raise InvalidValue(
            f"'{folder}' holds no {FILE}", "a folder with a saved fusion", "Check the path."
        )
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        version, packed = saved["version"], saved["fusion"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    if version != VERSION:
        raise InvalidValue(
            f"'{path}' has version {version}",
            f"version {VERSION}, which this fusetune reads",
            "Update fusetune, or fit and save the fusion again.",
        )
    try:
        fusion = _unpack(packed, folder)
    except UnknownName:  # a form that is not installed: nothing is damaged
        raise
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise _damaged(path, error) from error
    if not isinstance(fusion, Fitted):
        raise _damaged(path, TypeError("no fusion in it"))
    return fusion


def _pack(value: object, arrays: dict[str, npt.NDArray[Any]], place: str) -> object:
    if isinstance(value, Fitted):
        assert is_dataclass(value), f"{type(value)} is not a dataclass"
        value.check_savable()
        kept = {
            field.name: _pack(getattr(value, field.name), arrays, f"{place}{field.name}")
            for field in fields(value)
            if field.init
        }
        return {"form": f"{type(value).__module__}.{type(value).__qualname__}", "fields": kept}
    if isinstance(value, np.ndarray):
        assert value.dtype.kind in "biufU", f"{place} holds objects"
        arrays[f"{place}.npy"] = value
        return {"array": f"{place}.npy"}
    if isinstance(value, tuple):
        return [_pack(item, arrays, f"{place}.{index}.") for index, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    assert value is None or isinstance(value, bool | int | float | str), (place, type(value))
    return value


def _unpack(packed: object, folder: Path) -> object:
    if isinstance(packed, list):
        return tuple(_unpack(item, folder) for item in packed)
    if isinstance(packed, dict) and "array" in packed:
        name = packed["array"]
        if Path(name).name != name:
            raise ValueError(f"array file '{name}' lies outside the folder")
        return np.load(folder / name, allow_pickle=False)
    if isinstance(packed, dict):
        form = _form(packed["form"])
        return form(**{name: _unpack(item, folder) for name, item in packed["fields"].items()})
    return packed


def _form(dotted: str) -> type[Fitted]:
    module, _, name = dotted.rpartition(".")
    registered = {point.module for group in GROUPS for point in entry_points(group=group)}
    if f"{module}.".startswith(OWN) or module in registered:
        try:
            form = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError:
            form = None
        if isinstance(form, type) and issubclass(form, Fitted) and form.__module__ == module:
            return form
    raise unknown_name("form of a fusion", dotted, registered, where="among installed plug-ins")


def _damaged(path: Path, error: Exception) -> InvalidValue:
    return InvalidValue(
        f"the saved fusion '{path}' cannot be read ({type(error).__name__}: {error})",
        "the files that save_fitted wrote, unchanged",
        "Copy the whole folder again, or fit and save the fusion again.",
    )
