# SPDX-License-Identifier: Apache-2.0
"""Find plug-ins: the only registry code, and there is no list to keep.

An interface `FusionMethod` in `fusetune/fuse/method.py` has its plug-ins in the folder beside it,
`fusetune/fuse/methods/` (subfolders only sort them). A plug-in is one file; the file's name is its
name everywhere, and its class is that name in CamelCase. Other distributions add plug-ins through
an entry-point group named like the folder: `fusetune.fuse.methods`.
"""

import importlib
import inspect
import pkgutil
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TypeVar

from fusetune.errors import FusetuneError, MissingExtra, unknown_name

__all__ = ["discover", "find", "missing_extra", "plugin_name", "plugin_names"]

T = TypeVar("T")

_EXTRAS = {
    **dict.fromkeys(("torch", "accelerate", "safetensors"), "torch"),
    **dict.fromkeys(("torchvision", "timm"), "vision"),
    "transformers": "text",
    "numba": "detection",
    "peft": "lora",
    "segmentation_models_pytorch": "smp",
    **dict.fromkeys(("onnx", "onnxruntime"), "onnx"),
}


def plugin_names(interface: type) -> tuple[str, ...]:
    """Names of an interface's plug-ins, sorted; imports none of them."""
    return tuple(sorted({*_modules(interface), *_entry_points(interface)}))


def find(interface: type[T], name: str) -> type[T]:
    """Import the plug-in of that name, and that module alone.

    Args:
        interface: The abstract class, defined in the singular file beside the plug-ins' folder.
        name: File name of the plug-in without `.py`, as in recipes and on the command line.

    Raises:
        UnknownName: No plug-in has that name; the message lists the known ones and the nearest.
        MissingExtra: The plug-in needs a package that is not installed.
    """
    modules = _modules(interface)
    if name in modules:
        module = _import(modules[name])
        loaded = getattr(module, _camel_case(name), None)
    elif name in (external := _entry_points(interface)):
        loaded = external[name].load()
    else:
        raise unknown_name(_describe(interface), name, plugin_names(interface))
    assert inspect.isclass(loaded) and issubclass(loaded, interface), (interface, name, loaded)
    assert not inspect.isabstract(loaded), f"plug-in {name} leaves methods abstract"
    return loaded


def discover(interface: type[T]) -> dict[str, type[T]]:
    """Import every plug-in of an interface: name → class, sorted by name."""
    return {name: find(interface, name) for name in plugin_names(interface)}


def plugin_name(plugin: type) -> str:
    """Name of a plug-in class: the file it stands in."""
    return plugin.__module__.rpartition(".")[2]


def missing_extra(package: str, extra: str) -> FusetuneError:
    """Build the error for a package that an optional part of fusetune needs.

    Example:
        >>> print(missing_extra("torch", "torch"))
        the package 'torch' is not installed; expected it for this step. Run: pip install 'fusetune[torch]'
    """
    return MissingExtra(
        f"the package '{package}' is not installed",
        "it for this step",
        f"Run: pip install 'fusetune[{extra}]'",
    )


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "fusetune"):
            raise
        raise missing_extra(package, _EXTRAS.get(package, "all")) from error


def _folder(interface: type) -> str:
    return f"{interface.__module__}s"


def _modules(interface: type) -> dict[str, str]:
    package = importlib.import_module(_folder(interface))
    found: dict[str, str] = {}
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not info.ispkg:
            name = info.name.rpartition(".")[2]
            assert name not in found, f"two plug-ins are called {name}"
            found[name] = info.name
    return found


def _entry_points(interface: type) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=_folder(interface))}


def _camel_case(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _describe(interface: type) -> str:
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in interface.__name__)
    return words.strip()
