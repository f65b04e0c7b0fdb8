# SPDX-License-Identifier: Apache-2.0
"""What docs/sklearn.md and the example show, runs."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow  # a grid search and several fits
def test_snippets_run_one_after_the_other():
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "sklearn.md").read_text(), re.S)
    assert len(snippets) == 5
    names = {}
    for snippet in snippets:
        exec(compile(snippet, "docs/sklearn.md", "exec"), names)
    assert names["fusion"].score(names["X"], names["y"]) > 0.95


def test_the_example_runs(capsys):
    runpy.run_path(str(ROOT / "examples" / "sklearn_fusion.py"))
    said = capsys.readouterr().out
    errors = re.findall(r"errors of (\w+) +([\d.]+) %", said)
    assert [name for name, _ in errors] == ["auto", "logistic", "svm", "trees", "bayes"]
    assert float(errors[0][1]) < sorted(float(share) for _, share in errors[1:])[1]
