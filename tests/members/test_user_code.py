# SPDX-License-Identifier: Apache-2.0
"""The user's own code is found without running it, imported from its folder, and its files known."""

import subprocess
import sys
from pathlib import Path

import pytest

from fusetune.errors import InvalidValue, UnknownName
from fusetune.members.user_code import check_import_path, importable, load_object, local_files


def write(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        path = folder / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def load(path: str, folder: Path):
    with importable(folder):
        return load_object(path, folder)


def test_an_object_is_loaded_by_its_path(tmp_path):
    write(tmp_path, fusetune_nets_a="VALUE = 3\ndef build():\n    return 5\n")
    check_import_path("fusetune_nets_a.build", tmp_path)
    assert load("fusetune_nets_a.build", tmp_path)() == 5
    assert load("fusetune_nets_a.VALUE", tmp_path) == 3


def test_the_folder_is_on_the_path_only_inside(tmp_path):
    before = list(sys.path)
    with importable(tmp_path):
        assert sys.path[0] == str(tmp_path.resolve())
    assert sys.path == before


def test_modules_of_the_same_name_in_two_folders_do_not_mix(tmp_path):
    first = write(
        tmp_path / "a", fusetune_nets_b="from fusetune_help import X", fusetune_help="X = 1"
    )
    second = write(
        tmp_path / "b", fusetune_nets_b="from fusetune_help import X", fusetune_help="X = 2"
    )
    assert [load("fusetune_nets_b.X", folder) for folder in (first, second, first)] == [1, 2, 1]


def test_a_package_with_relative_imports(tmp_path):
    write(tmp_path, fusetune_pkg__net="from .part import X", fusetune_pkg__part="X = 7")
    (tmp_path / "fusetune_pkg" / "__init__.py").write_text("")
    check_import_path("fusetune_pkg.net.X", tmp_path)
    assert load("fusetune_pkg.net.X", tmp_path) == 7


def test_installed_packages_are_found_too(tmp_path):
    check_import_path("json.decoder.JSONDecoder", tmp_path)
    assert load("json.decoder.JSONDecoder", tmp_path).__name__ == "JSONDecoder"


def test_checking_runs_none_of_the_users_code(tmp_path):
    write(tmp_path, fusetune_nets_c="raise SystemExit('ran')\ndef build(): ...\n")
    check_import_path("fusetune_nets_c.build", tmp_path)


@pytest.mark.parametrize(
    "code",
    [
        "def build(): ...",
        "class build: ...",
        "build = print",
        "build: object = print",
        "from functools import partial as build",
        "if True:\n    def build(): ...",
        "from elsewhere import *",
        "def __getattr__(name): ...",
    ],
)
def test_a_name_may_be_defined_in_any_way(tmp_path, code):
    write(tmp_path, fusetune_nets_d=code)
    check_import_path("fusetune_nets_d.build", tmp_path)


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("build", InvalidValue, "'build' is no import path; expected module.name, as in"),
        ("nets.py", UnknownName, "no function or class is called 'py' (in nets.py)"),
        ("./nets.build", InvalidValue, "'./nets.build' is no import path"),
        (
            "nets.resnet2",
            UnknownName,
            "no function or class is called 'resnet2' (in nets.py); expected one of nn, resnet20. "
            "Did you mean 'resnet20'?",
        ),
        (
            "fusetune_no.such",
            UnknownName,
            "no module 'fusetune_no' in '{}' (there: broken, nets) nor",
        ),
        ("broken.build", InvalidValue, "'{}/broken.py', line 1 is not valid Python ("),
    ],
)
def test_paths_that_lead_nowhere_are_refused(tmp_path, path, error, message):
    code = "import torch.nn as nn\ndef resnet20():\n    def resnet2x(): ...\n"
    write(tmp_path, nets=code, broken="def build(:\n")
    with pytest.raises(error) as caught:
        check_import_path(path, tmp_path)
    assert message.format(tmp_path) in str(caught.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(
        InvalidValue, match=r"import_from is '.*none', which is no folder; expected"
    ):
        check_import_path("nets.build", tmp_path / "none")


@pytest.mark.parametrize(
    ("code", "path", "error", "message"),
    [
        ("1 / 0", "fusetune_nets_e.build", InvalidValue, "failed (ZeroDivisionError: division by"),
        (
            "import fusetune_no_such",
            "fusetune_nets_e.build",
            InvalidValue,
            "importing 'fusetune_nets_e' failed (ModuleNotFoundError: No module named 'fusetune_no",
        ),
        ("def bild(): ...", "fusetune_nets_e.build", UnknownName, "Did you mean 'bild'?"),
        ("", "fusetune_nets_f.build", UnknownName, "no module 'fusetune_nets_f' in '"),
        ("", "fusetune_nets_e.deep.build", UnknownName, "no module 'fusetune_nets_e.deep' in '"),
    ],
)
def test_what_fails_on_import_is_said(tmp_path, code, path, error, message):
    write(tmp_path, fusetune_nets_e=code)
    with pytest.raises(error) as caught:
        load(path, tmp_path)
    assert message in str(caught.value)


def test_all_local_files_that_are_imported_are_known(tmp_path):
    write(
        tmp_path,
        nets="import os\nimport help_a\nfrom pkg.inner import thing\ndef build():\n    import help_b\n",
        help_a="import nets",
        help_b="",
        unused="",
        pkg__inner="from . import beside\nfrom .. import help_a",
        pkg__beside="",
        pkg__other="",
    )
    (tmp_path / "pkg" / "__init__.py").write_text("")
    found = [str(path.relative_to(tmp_path)) for path in local_files("nets.build", tmp_path)]
    assert found == [
        "help_a.py",
        "help_b.py",
        "nets.py",
        "pkg/__init__.py",
        "pkg/beside.py",
        "pkg/inner.py",
    ]
    assert local_files("json.loads", tmp_path) == ()


def test_checking_needs_no_torch(tmp_path):
    code = (
        "import sys; from pathlib import Path; import fusetune.members.user_code as u; "
        f"u.check_import_path('json.loads', Path({str(tmp_path)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
