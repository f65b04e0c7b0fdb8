# SPDX-License-Identifier: Apache-2.0
"""From YAML and JSON to typed settings, and back: whatever the keys mean."""

import os
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from fusetune.errors import RecipeError, name_some, unknown_name
from fusetune.plugins import find

__all__ = [
    "build",
    "build_plugin",
    "check_keys",
    "checked",
    "expand",
    "mapping",
    "merged",
    "plain",
    "read_yaml",
    "short",
    "text",
]

T = TypeVar("T")


def build(cls: type[T], content: object, where: str, folder: Path) -> T:
    """Make a settings dataclass of a recipe's mapping.

    Unknown keys are refused here (pydantic ignores them for standard dataclasses), types are
    checked by pydantic, and relative paths start at the recipe's folder.
    """
    if not isinstance(content, Mapping):
        raise RecipeError(
            f"{where} is {short(content)}",
            "a block of `key: value` lines",
            "Indent its keys below it.",
        )
    check_keys(where, content, [f.name for f in fields(cls)])  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, value in content.items():
        nested = _dataclass_in(hints[name])
        if nested is not None and isinstance(value, Mapping):
            values[name] = build(nested, value, f"{where}.{name}", folder)
        else:
            values[name] = checked(hints[name], value, f"{where}.{name}")
    missing = [f.name for f in fields(cls) if f.name not in values and _required(f)]  # type: ignore[arg-type]
    if missing:
        raise RecipeError(
            f"{where} lacks {name_some(missing)}", "a value for each", f"Add `{missing[0]}: ...`."
        )
    made = cls(**values)
    relative = {
        spec.name: folder / value.expanduser()
        for spec in fields(made)  # type: ignore[arg-type]
        if isinstance(value := getattr(made, spec.name), Path) and not value.is_absolute()
    }
    return replace(made, **relative) if relative else made  # type: ignore[type-var]


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a YAML file, which has to be one block of keys.

    Raises:
        RecipeError: The file cannot be read, is no YAML, or has a key twice (the line is named).
    """
    import yaml

    try:
        written = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise RecipeError(
            f"the recipe '{path}' cannot be read ({reason})", "a YAML file", "Check its path."
        ) from error
    try:
        content = yaml.load(written, Loader=_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is not well formed"
        raise RecipeError(
            f"the recipe '{path}' is no valid YAML{place}: {problem}",
            "a block of keys",
            "Mend that line.",
        ) from error
    return mapping(content, f"the recipe '{path}'")


@cache
def _loader() -> Any:  # noqa: ANN401
    """A safe loader that refuses repeated keys and reads `1e-3` as the number it is."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: ANN401
            seen: set[str] = set()
            for key_node, _ in node.value:
                key = str(self.construct_object(key_node, deep=True))
                if key in seen:
                    raise RecipeError(
                        f"the recipe has '{key}' twice (line {key_node.start_mark.line + 1})",
                        "every key once in its block",
                        "Remove one of them.",
                    )
                seen.add(key)
            return super().construct_mapping(node, deep)

    number = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    return Loader


def expand(value: Any) -> Any:  # noqa: ANN401
    """Replace `${NAME}` in every string by the environment's value."""
    if isinstance(value, Mapping):
        return {key: expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item) for item in value]
    if not isinstance(value, str):
        return value

    def of(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise RecipeError(
                f"the recipe uses ${{{name}}}, which is not set",
                "an environment variable",
                f"Run: export {name}=...",
            )
        return os.environ[name]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", of, value)


def checked(hint: Any, value: object, where: str) -> Any:  # noqa: ANN401
    """A value of the annotated type, as pydantic reads it."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    if isinstance(value, bool) and _is_number(hint):
        raise RecipeError(f"{where} is {short(value)}", "a number", "Change it, or leave it out.")
    config = None if is_dataclass(hint) else ConfigDict(arbitrary_types_allowed=True)
    try:
        return TypeAdapter(hint, config=config).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        message = str(first["msg"]).removeprefix("Input should be ").removeprefix("a valid ")
        raise RecipeError(
            f"{where} is {short(value)}", message, "Change it, or leave it out for the default."
        ) from error


def check_keys(where: str, content: Mapping[Any, Any], known: Sequence[str]) -> None:
    """Refuse a key that is not known, with the nearest offered.

    Raises:
        RecipeError: Names the key and the place.
    """
    for key in content:
        if key not in known:
            raise unknown_name("key", str(key), known, where=f"in {where}", error=RecipeError)


def _is_number(hint: Any) -> bool:  # noqa: ANN401
    """True for `int`, `float`, and these or something else, but no truth value."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return bool not in options and (int in options or float in options)


def _dataclass_in(hint: Any) -> Any:  # noqa: ANN401
    """The dataclass among a hint's alternatives, if there is one."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next(
        (option for option in options if isinstance(option, type) and is_dataclass(option)), None
    )


def _required(spec: Any) -> bool:  # noqa: ANN401
    return spec.default is MISSING and spec.default_factory is MISSING


def mapping(content: object, where: str) -> dict[str, Any]:
    """A block of the recipe as a new dict; an empty one for an empty block."""
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise RecipeError(
            f"{where} is {short(content)}",
            "a block of `key: value` lines",
            "Indent its keys below it.",
        )
    return dict(content)


def merged(default: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The default with given keys replaced, block by block."""
    result = dict(default)
    for key, value in given.items():
        nested = isinstance(value, Mapping) and isinstance(default.get(key), Mapping)
        result[key] = merged(default[key], value) if nested else value
    return result


def plain(value: Any) -> Any:  # noqa: ANN401
    """Settings as mappings, lists, numbers and strings."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def text(value: object, where: str) -> str:
    """A value that has to be a string."""
    if not isinstance(value, str):
        raise RecipeError(f"{where} is {short(value)}", "a name", "Write it as text.")
    return value


def short(value: object) -> str:
    """A value as it can stand in a message."""
    written = repr(value)
    return written if len(written) <= 60 else f"{written[:57]}..."


def build_plugin(interface: type[T], key: str, content: object, where: str, folder: Path) -> T:
    """A plug-in from its bare name, or from a mapping that names it under `key`."""
    block = {key: content} if isinstance(content, str) else mapping(content, where)
    if key not in block:
        raise RecipeError(
            f"{where} does not say its `{key}:`", "the name of one", f"Add `{key}: ...`."
        )
    cls = find(interface, text(block.pop(key), f"{where}.{key}"))
    return build(cls, block, where, folder)
