# SPDX-License-Identifier: Apache-2.0
"""Find and import the user's own Python code by import path.

`my_nets.resnet20` is the function or class `resnet20` of the module `my_nets`, which is looked for in
a folder of the user's (the recipe's) first, then among the installed packages.
"""

import ast
import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from fusetune.errors import InvalidValue, UnknownName, unknown_name

__all__ = ["check_import_path", "importable", "load_object", "local_files"]


def check_import_path(path: str, folder: Path) -> None:
    """Refuse an import path that leads nowhere, without running any of the user's code.

    Args:
        path: `module.name` or `package.module.name`.
        folder: Where the user's modules are.

    Raises:
        InvalidValue: No dotted path, a folder that is not there, or a file with a syntax error.
        UnknownName: No such module, or nothing of that name in it; the nearest is offered.
    """
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise InvalidValue(
            f"'{path}' is no import path",
            "module.name, as in `from module import name`",
            "Write model: my_nets.resnet20 for the function resnet20 in my_nets.py.",
        )
    if not folder.is_dir():
        raise InvalidValue(
            f"import_from is '{folder}', which is no folder",
            "the folder that your Python file lies in",
            "Correct import_from (relative paths start at the recipe's folder).",
        )
    file = _local_file(module, folder)
    if file is None:
        if _is_installed(module.partition(".")[0]):
            return
        raise _no_module(module, folder)
    names = _defined(file)
    if name not in names and "*" not in names:
        raise unknown_name(
            "function or class", name, names - {"__getattr__"}, where=f"in {file.name}"
        )


def load_object(path: str, folder: Path) -> Any:  # noqa: ANN401 - whatever the user has defined
    """Import the module of an import path, and give the object of that name.

    Call it inside `importable(folder)`.

    Raises:
        InvalidValue: The module raises on import.
        UnknownName: No such module, or nothing of that name in it.
    """
    module, _, name = path.rpartition(".")
    try:
        loaded: ModuleType = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise _no_module(module, folder) from None
        raise _failed(module, error) from error
    except Exception as error:
        raise _failed(module, error) from error
    if not hasattr(loaded, name):
        known = [known for known in dir(loaded) if not known.startswith("_")]
        where = f"in {getattr(loaded, '__file__', module)}"
        raise unknown_name("function or class", name, known, where=where)
    return getattr(loaded, name)


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Look for modules in `folder` first, inside the `with` block.

    A module of the same name that was imported from another folder is forgotten, so that each
    member of a run gets its own.
    """
    folder = folder.resolve()
    here = {path.stem for path in folder.glob("*.py")}
    here |= {path.name for path in folder.iterdir() if path.is_dir()}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in here and _is_foreign(module, folder):
            del sys.modules[name]
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def local_files(path: str, folder: Path) -> tuple[Path, ...]:
    """The Python files in `folder` that an import path runs: the module and what it imports there.

    Empty if the module is not in the folder (an installed package).
    """
    waiting = [path.rpartition(".")[0]]
    found: dict[Path, None] = {}
    while waiting:
        module = waiting.pop()
        file = _local_file(module, folder)
        if file is None or file in found:
            continue
        found[file] = None
        waiting += _imports(file, module)
        parent = module.rpartition(".")[0]
        waiting += [parent] if parent else []
    return tuple(sorted(found))


def _local_file(module: str, folder: Path) -> Path | None:
    base = folder.joinpath(*module.split("."))
    for file in (base / "__init__.py", base.with_suffix(".py")):
        if file.is_file():
            return file
    return None


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise InvalidValue(
            f"'{file}'{line} is not valid Python ({error.args[0]})",
            "a file that Python can import",
            f"Try it: python {file.name}",
        ) from None


def _defined(file: Path) -> set[str]:
    """Names that a file defines at its top level; `*` if they cannot all be known."""
    names: set[str] = set()
    for node in _top_level(_parse(file)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add("*" if node.name == "__getattr__" else node.name)
            case ast.Import() | ast.ImportFrom():
                names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
    return names


def _top_level(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes below a node, without the insides of functions and classes."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _top_level(child)


def _imports(file: Path, module: str) -> list[str]:
    """Modules that a file may import, relative ones made absolute."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    found: list[str] = []
    for node in ast.walk(_parse(file)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".") if node.level else []
            parts = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            found += [base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)]
    return [name for name in found if name]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ValueError, ImportError):
        return False


def _is_foreign(module: ModuleType, folder: Path) -> bool:
    """True if a module was imported from a file outside the folder."""
    file = getattr(module, "__file__", None)
    return file is not None and folder not in Path(file).resolve().parents


def _no_module(module: str, folder: Path) -> Exception:
    near = [path.stem for path in folder.glob("*.py")]
    listed = f" (there: {', '.join(sorted(near)[:10])})" if near else ""
    return UnknownName(
        f"no module '{module}' in '{folder}'{listed} nor among the installed packages",
        f"{module.replace('.', '/')}.py in that folder",
        "Correct model: or import_from: in the recipe, or install the package.",
    )


def _failed(module: str, error: Exception) -> InvalidValue:
    return InvalidValue(
        f"importing '{module}' failed ({type(error).__name__}: {error})",
        "a module that Python can import",
        f'Try it: python -c "import {module}"',
    )
