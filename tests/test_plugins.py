# SPDX-License-Identifier: Apache-2.0
"""Discovery, names and documentation of all plug-ins."""

import dataclasses
import re
import subprocess
import sys

import pytest

from fusetune.calibrate.calibrator import Calibrator
from fusetune.errors import UnknownName
from fusetune.fuse.method import FusionMethod
from fusetune.fuse.soup import Soup
from fusetune.metric import Metric
from fusetune.plugins import discover, find, plugin_name, plugin_names
from fusetune.task import Task

INTERFACES = [Calibrator, FusionMethod, Metric, Soup, Task]
PLUGINS = [
    pytest.param(interface, name, id=f"{interface.__name__}-{name}")
    for interface in INTERFACES
    for name in plugin_names(interface)
]


def test_names_are_files_sorted():
    assert list(plugin_names(Metric)) == sorted(plugin_names(Metric))
    assert {"accuracy", "brier", "log_loss", "macro_f1", "rmse"} <= {*plugin_names(Metric)}
    assert {"vote", "mean", "weighted_mean", "stacking", "greedy_selection"} <= {
        *plugin_names(FusionMethod)
    }


@pytest.mark.parametrize(("interface", "name"), PLUGINS)
def test_every_plugin_is_found_by_its_files_name(interface, name):
    plugin = find(interface, name)
    assert discover(interface)[name] is plugin
    assert plugin_name(plugin) == name
    assert plugin.__name__.lower() == name.replace("_", "")
    assert plugin().name == name


@pytest.mark.parametrize(("interface", "name"), PLUGINS)
def test_every_plugin_is_a_frozen_documented_dataclass(interface, name):
    plugin = find(interface, name)
    assert dataclasses.is_dataclass(plugin)
    instance = plugin()
    assert hash(instance) == hash(plugin())
    with pytest.raises(dataclasses.FrozenInstanceError):
        instance.anything = 1
    with pytest.raises(TypeError):
        plugin(1)
    documentation = plugin.__doc__ or ""
    assert len(documentation) > 20
    for field in dataclasses.fields(plugin):
        # A default without a source is a bug: its description says where it comes from.
        description = re.search(
            rf"^ +{field.name}: (.+?)(?=^ +\w+: |\n\n|\Z)", documentation, re.M | re.S
        )
        assert description, f"{field.name} is not described"
        assert len(description[1]) > 20


@pytest.mark.parametrize("interface", INTERFACES)
def test_unknown_names_list_the_known_and_the_nearest(interface):
    known = plugin_names(interface)[0]
    with pytest.raises(UnknownName, match=rf"one of .*{known}.*Did you mean '{known}'\?"):
        find(interface, known[:-1])


def test_finding_one_plugin_imports_no_other():
    code = (
        "import sys; from fusetune.metric import Metric; from fusetune.plugins import find;"
        "find(Metric, 'macro_f1');"
        "print([m for m in sys.modules if m.startswith('fusetune.metrics.')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "['fusetune.metrics.macro_f1']"
