# SPDX-License-Identifier: Apache-2.0
"""A worker process: what runs in it, what comes home, what its death costs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fusetune.errors import DataError, MemberFailed
from fusetune.runtime.runner import Call
from fusetune.runtime.runners.local import Local

FUNCTIONS = """
import os, signal
from fusetune.errors import DataError

def twice(x, report):
    report({"phase": "half"})
    return 2 * x, os.getpid()

def refuse(report):
    raise DataError("row 7 has no label", "a label", "Add it.")

def crash(report):
    return [][1]

def die(report):
    os.kill(os.getpid(), signal.SIGKILL)

def leave(report):
    os._exit(3)

def shout(report):
    print("not a result")
"""


@pytest.fixture(autouse=True)
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "step_functions.py").write_text(FUNCTIONS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def call(runner: Local, name: str, **arguments: object) -> object:
    return runner.call(Call(f"step_functions:{name}", arguments), lambda event: None)


def test_a_function_runs_elsewhere_and_the_process_is_reused() -> None:
    events = []
    with Local() as runner:
        four, process = runner.call(Call("step_functions:twice", {"x": 2}), events.append)
        six, again = runner.call(Call("step_functions:twice", {"x": 3}), events.append)
    assert (four, six, process) == (4, 6, again)
    assert process != os.getpid()
    assert events == [{"phase": "half"}] * 2


def test_errors_for_people_come_home_unchanged_and_others_are_described() -> None:
    with Local() as runner:
        with pytest.raises(DataError, match=r"row 7 has no label; expected a label\. Add it"):
            call(runner, "refuse")
        with pytest.raises(
            MemberFailed, match=r"IndexError: list index out of range \(step_functions.py:13\)"
        ):
            call(runner, "crash")
        assert call(runner, "twice", x=1)[0] == 2  # type: ignore[index]


def test_a_killed_or_ended_worker_is_one_failed_call() -> None:
    with Local() as runner:
        with pytest.raises(MemberFailed, match=r"killed by SIGKILL \(often: out of memory\)"):
            call(runner, "die")
        with pytest.raises(MemberFailed, match="exit code 3"):
            call(runner, "leave")
        assert call(runner, "twice", x=1)[0] == 2  # type: ignore[index]


def test_a_preload_that_fails_is_not_fatal() -> None:
    with Local(preload="no_such_module") as runner:
        assert call(runner, "twice", x=1)[0] == 2  # type: ignore[index]


def test_what_a_member_prints_is_no_result() -> None:
    code = (
        "from fusetune.runtime.runners.local import Local; from fusetune.runtime.runner import Call\n"
        "with Local() as r: r.call(Call('step_functions:shout', {}), print)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "not a result" in done.stderr


def test_the_worker_dies_with_its_parent_even_by_kill(tmp_path: Path) -> None:
    code = (
        "from fusetune.runtime.runners.local import Local; from fusetune.runtime.runner import Call\n"
        "import time\n"
        "r = Local(); print(r.call(Call('step_functions:twice', {'x': 1}), print)[1], flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()  # the event
        worker = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _alive(worker):
        time.sleep(0.05)
    assert not _alive(worker)


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
