# SPDX-License-Identifier: Apache-2.0
"""Whole training steps as CUDA graphs: one launch in the place of hundreds.

Small images keep a GPU busy for microseconds per kernel, less than Python takes to launch one.
"""

import contextlib
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = ["StepGraphs", "own_stream"]

EAGER_STEPS = 3  # of each batch size before its graph: they fill the optimizer's state and caches
WAIT = "called a synchronizing CUDA operation"  # PyTorch's warning

Step = Callable[[Tensor], None]


@contextlib.contextmanager
def own_stream(device: torch.device) -> Iterator["torch.cuda.Stream | None"]:
    """A stream to run everything on, since the default one cannot be recorded; None but on a GPU.

    It begins after what was asked of the device before, and what is asked of it afterwards waits
    for it.
    """
    if device.type != "cuda":
        yield None
        return
    stream, usual = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(usual)
    try:
        with torch.cuda.stream(stream):
            yield stream
    finally:
        usual.wait_stream(stream)


class StepGraphs:
    """Runs a training step on given rows; records it once per batch size, then replays the record.

    A step that cannot be recorded (it waits for the device, or makes decisions by random numbers on
    the host) goes on being run as it is, and `notes` says why. Which do is found out by watching
    them: recordings that fail leave PyTorch's memory and random state in doubt.

    Args:
        step: Takes `(B,)` row numbers on the device, and reads nothing else that changes but
            tensors that stay where they are.
        stream: The stream that everything runs on, or None: never record.
    """

    def __init__(self, step: Step, stream: "torch.cuda.Stream | None") -> None:
        self.step, self.stream = step, stream
        self.notes: list[str] = []
        self._seen: Counter[int] = Counter()
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, rows: Tensor) -> None:
        """Do the step."""
        num = len(rows)
        if self.stream is None:
            self.step(rows)
        elif num in self._recorded:
            self._replay(rows)
        elif self._seen[num] < EAGER_STEPS:
            self._seen[num] += 1
            self._watch(rows, self._seen[num])
        else:
            self._record(rows)
            self(rows)

    def _watch(self, rows: Tensor, time: int) -> None:
        """Do the step as it is, for the first, second, ... time."""
        before = _host_randomness()
        with _waits_noted(on=time == EAGER_STEPS) as waited:
            self.step(rows)
        if waited:
            self._give_up("they wait for the device")
        elif time > 1 and before != _host_randomness():  # the first one may compile
            self._give_up("they draw random numbers on the host")

    def _replay(self, rows: Tensor) -> None:
        graph, static_rows = self._recorded[len(rows)]
        static_rows.copy_(rows)
        graph.replay()

    def _record(self, rows: Tensor) -> None:
        graph, static_rows = torch.cuda.CUDAGraph(), rows.clone()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                self.step(static_rows)
        except RuntimeError as error:
            # In older versions of PyTorch this state goes on waiting for the recording's end.
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            generator.graphsafe_set_state(generator.clone_state())
            self._give_up(str(error).splitlines()[0])
        else:
            self._recorded[len(rows)] = graph, static_rows

    def _give_up(self, reason: str) -> None:
        self.stream = None
        self._recorded.clear()
        self.notes.append(f"steps are not recorded as CUDA graphs: {reason}")


@contextlib.contextmanager
def _waits_noted(*, on: bool) -> Iterator[list[str]]:
    """If `on`, the list has afterwards what PyTorch says of every wait for the device inside."""
    waits = list[str]()
    if not on:
        yield waits
        return
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits += [str(one.message) for one in seen if WAIT in str(one.message)]


def _host_randomness() -> tuple[bytes, object]:
    return torch.default_generator.get_state().numpy().tobytes(), random.getstate()
