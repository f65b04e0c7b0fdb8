# SPDX-License-Identifier: Apache-2.0
"""The sizes that docs/architecture.md sets, in code lines: no docstrings, comments or blanks."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

import fusetune

ROOT = Path(fusetune.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MODULE, INTERFACE, PLUGIN, FUNCTION, PARAMETERS = 300, 100, 150, 40, 7
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
# A command's parameters are its options; the function that it calls may have as many.
MANY_PARAMETERS = {"fuse_files", "choose", "cross_choose"}  # docs/decisions/0004
Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(text):
    """Numbers of the lines that hold code."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        # A string that stands alone documents: a module, class, function or attribute.
        stands_alone = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if stands_alone and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return lines


def limit(path):
    if path.name == "__init__.py":
        return MODULE
    if interface_of(path):
        return PLUGIN
    return INTERFACE if (path.parent / f"{path.stem}s").is_dir() else MODULE


def interface_of(path):
    """The singular file of the plural folder that a plug-in stands in, if it does."""
    for folder in path.parents:
        if folder == ROOT:
            return None
        singular = folder.with_name(f"{folder.name.removesuffix('s')}.py")
        if folder.name.endswith("s") and singular.is_file():
            return singular
    return None


def functions(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Function):
            yield node


def num_parameters(function):
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_the_counter_counts_code_only():
    text = '"""Doc."""\n\n# why\nx = [\n    1,  # one\n\n]\n\n\ndef f(self, a, *, b):\n    """Doc\n    doc."""\n    return """a\nb"""\n'
    assert sorted(code_lines(text)) == [4, 5, 7, 10, 13, 14]
    assert [num_parameters(function) for function in functions(text)] == [2]
    assert limit(ROOT / "metrics" / "accuracy.py") == PLUGIN
    assert limit(ROOT / "fuse" / "methods" / "distributions" / "vote.py") == PLUGIN
    assert limit(ROOT / "fuse" / "method.py") == limit(ROOT / "metric.py") == INTERFACE
    assert limit(ROOT / "fuse" / "forms.py") == limit(ROOT / "choose.py") == MODULE


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_are_small(path):
    text = path.read_text(encoding="utf-8")
    lines = code_lines(text)
    too_large = []
    if len(lines) >= limit(path):
        too_large.append(f"{len(lines)} code lines, of fewer than {limit(path)}")
    for function in functions(text):
        inside = lines & set(range(function.lineno, function.end_lineno + 1))
        if len(inside) >= FUNCTION:
            too_large.append(f"{function.name}: {len(inside)} code lines, of fewer than {FUNCTION}")
        may_have_many = path.parent == ROOT / "cli" or function.name in MANY_PARAMETERS
        if num_parameters(function) >= PARAMETERS and not may_have_many:
            too_large.append(f"{function.name}: {num_parameters(function)} parameters")
    assert not too_large
