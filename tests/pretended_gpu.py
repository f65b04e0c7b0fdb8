# SPDX-License-Identifier: Apache-2.0
"""A pretended GPU, for machines without one: tensors on the host that are held to be on a GPU.

Whole runs go through what is written for GPUs and give true figures; a tensor left on the host, a wait
for the device in a step, and what a recording does not do are found as on a GPU. What kernels of a GPU
do differently, order between streams, and memory are not.
"""

import contextlib
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim import optimizer as torch_optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from fusetune.finetune.engines import torch as torch_engine
from fusetune.finetune.pytorch import graphs, inputs
from fusetune.finetune.pytorch.loop import Training

__all__ = ["GPU", "PretendedGpu", "pretended_gpu"]

GPU, HOST = torch.device("cuda", 0), torch.device("cpu")
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount", "equal")
INDEXING = ("index", "index_put_", "_index_put_impl_")
COPYING = ("copy_", "_foreach_copy_")
NO_SCALARS_OF_THE_HOST = ("where", "cat", "stack", "gather", "scatter")


class NotOnDevice(Exception):
    """What a GPU refuses: tensors of two places in one operation, or reading one as if on the host."""


class PretendedGpu:
    """Where every tensor is held to be, by its storage; and what happened.

    Attributes:
        waits: What made steps wait for the device.
        recordings: Number of steps that were recorded, or begun to be.
        replays: Number of times that a record was replayed.
    """

    def __init__(self) -> None:
        self.waits: list[str] = []
        self.recordings = self.replays = 0
        self.in_step = self.warns = self.excused = False
        self.tape: list[tuple[Any, Any, Any, object]] | None = None  # of what is being recorded
        self.fallbacks = [False]  # whether new tensors are on the GPU, by the functions called
        self._places: dict[int, tuple[StorageWeakRef, bool]] = {}

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor is on the GPU."""
        return self._places.get(tensor.untyped_storage()._cdata, (None, False))[1]

    def put(self, tensor: Tensor, *, on_gpu: bool) -> Tensor:
        """Hold it to be there from now on; the weak reference keeps its number from being used again."""
        storage = tensor.untyped_storage()
        self._places[storage._cdata] = StorageWeakRef(storage), on_gpu
        return tensor

    def wait(self, why: str) -> None:
        """Note that the host waits for the device; a recording fails of it."""
        if self.excused:
            return
        if self.tape is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {why}")
        if self.warns:
            warnings.warn(f"called a synchronizing CUDA operation ({why})", stacklevel=2)
        if self.in_step:
            ours = [one for one in traceback.extract_stack() if "fusetune" in one.filename]
            self.waits.append(f"{why}: {ours[-1].line if ours else ''}")

    @contextlib.contextmanager
    def recording(self, graph: "Graph", stream: object = None) -> Iterator[None]:
        """Nothing is done on the device meanwhile: all of its memory is put back."""
        self.recordings += 1
        on_gpu = [key for key, (_, on_gpu) in self._places.items() if on_gpu]
        with _unseen():
            storages = [torch.UntypedStorage._new_with_weak_ptr(key) for key in on_gpu]
            kept = [(one, one.clone()) for one in storages if one is not None and one.nbytes()]
            random = torch.default_generator.get_state()
        self.tape = graph.tape
        try:
            yield
        finally:
            self.tape = None
            with _unseen():
                for storage, before in kept:
                    storage.copy_(before)
                torch.default_generator.set_state(random)


class Graph:
    """A record: the operations, with the tensors that they took and gave, and the numbers as they were."""

    def __init__(self, gpu: PretendedGpu) -> None:
        self.gpu = gpu
        self.tape: list[tuple[Any, Any, Any, object]] = []

    def replay(self) -> None:
        """Do all of it again, results where they were."""
        self.gpu.replays += 1
        with _unseen(), torch.no_grad():
            for func, args, kwargs, results in self.tape:
                for one, again in zip(
                    _tensors(results), _tensors(func(*args, **kwargs)), strict=True
                ):
                    if one.untyped_storage()._cdata != again.untyped_storage()._cdata:
                        one.copy_(again)


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        yield


class Operations(TorchDispatchMode):
    """Sees every operation of PyTorch, those of backward passes too."""

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        given = _tensors((args, kwargs or {}))
        on_gpu = any(map(self.gpu.holds, given))
        if on_gpu:
            self.check(func._schema.name.split("::")[1], given, args)
        known = {one.untyped_storage()._cdata for one in given}
        result = func(*args, **(kwargs or {}))
        if self.gpu.tape is not None:
            with _unseen():  # a record knows memory: a tensor that moves elsewhere is not followed
                self.gpu.tape.append((func, *tree_map(_alias, (args, kwargs or {}, result))))
        for one in _tensors(result):
            if one.untyped_storage()._cdata not in known:
                self.gpu.put(one, on_gpu=on_gpu or (not given and self.gpu.fallbacks[-1]))
        return result

    def check(self, name: str, given: list[Tensor], args: Any) -> None:
        """Of an operation that takes a tensor on the GPU."""
        others = [one for one in given if not self.gpu.holds(one)]
        if name in WAITING:
            self.gpu.wait(name)
        elif name in COPYING:
            if others:
                self.gpu.wait(f"{name} from the host or to it")
        elif name in INDEXING:
            indices = [one for one in args[1] if one is not None]
            if any(one.dtype == torch.bool or not self.gpu.holds(one) for one in indices):
                self.gpu.wait(f"{name} by a mask, or by a tensor on the host")
            others = [one for one in (args[0], *args[2:3]) if not self.gpu.holds(one) and one.ndim]
        else:
            lenient = name not in NO_SCALARS_OF_THE_HOST
            others = [one for one in others if one.ndim or not lenient]
        if others and name not in COPYING:
            raise NotOnDevice(name, [(tuple(one.shape), self.gpu.holds(one)) for one in given])


class Functions(TorchFunctionMode):
    """Sees what is called by name, and says `cuda` where it is asked for a device."""

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        given, kwargs = _tensors((args, kwargs or {})), dict(kwargs or {})
        on_gpu, name = any(map(self.gpu.holds, given)), getattr(func, "__name__", "")
        if name == "__get__" and on_gpu and func.__self__ in (Tensor.device, Tensor.is_cuda):
            return GPU if func.__self__ is Tensor.device else True
        if func in (Tensor.to, Tensor.cpu):
            return self.moved(func, args[0], args[1:], kwargs)
        if func is Tensor.numpy and on_gpu:
            raise NotOnDevice("numpy() of a tensor on the GPU")
        if func is Tensor.pin_memory:
            return args[0]
        if on_gpu and (func is Tensor.new_tensor or _by_list(func, args)):
            self.gpu.wait("numbers from the host")
        device = kwargs.pop("device", None)
        if device is not None:
            on_gpu, kwargs["device"] = torch.device(device).type == "cuda", HOST
            if on_gpu and func in (torch.tensor, torch.as_tensor):
                self.gpu.wait("numbers from the host")
        result = self.called(func, args, kwargs, on_gpu=on_gpu)
        for one in _tensors(result):
            if device is not None or (
                on_gpu and one.untyped_storage()._cdata not in self.gpu._places
            ):
                self.gpu.put(one, on_gpu=on_gpu)
        return result

    def called(self, func: Any, args: Any, kwargs: Mapping[str, Any], *, on_gpu: bool) -> object:
        """The result; what the function makes anew inside is where its arguments are."""
        self.gpu.fallbacks.append(on_gpu)
        self.gpu.excused = func is torch.nn.functional.one_hot  # looks at its values on hosts only
        try:
            return func(*args, **kwargs)
        finally:
            self.gpu.fallbacks.pop()
            self.gpu.excused = False

    def moved(self, func: Any, tensor: Tensor, args: Any, kwargs: dict[str, Any]) -> Tensor:
        """What `to` and `cpu` give."""
        here = self.gpu.holds(tensor)
        if func is Tensor.cpu:
            args = (HOST,)
        elif args and isinstance(args[0], Tensor):
            args = (GPU if self.gpu.holds(args[0]) else HOST, args[0].dtype, *args[1:])
        copy, pinned = kwargs.pop("copy", False), kwargs.get("non_blocking", False)
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
        rest = {"dtype": dtype or tensor.dtype, "memory_format": layout or torch.preserve_format}
        there = here if device is None else device.type == "cuda"
        result = tensor.to(**rest, copy=copy or there != here)
        if there != here and not pinned:
            self.gpu.wait("a copy from the host or to it")
        return self.gpu.put(result, on_gpu=there) if there != here else result


class Stream:
    """Everything happens at once, in its order."""

    def __init__(self, device: object = None) -> None:
        pass

    def wait_stream(self, other: "Stream") -> None:
        """It does already."""


class Executor:
    """Does the work of other threads in this one, which alone is watched."""

    def __init__(self, num_threads: int) -> None:
        pass

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(self, work: Callable[..., Any], *args: object) -> SimpleNamespace:
        """What has the result."""
        done = work(*args)
        return SimpleNamespace(result=lambda: done)


@contextlib.contextmanager
def pretended_gpu(*, room: int = 1 << 40) -> Iterator[PretendedGpu]:
    """Inside, `torch.device("cuda", 0)` works, and is what the engine finds.

    Args:
        room: Bytes that are free on it.
    """
    gpu = PretendedGpu()
    with pytest.MonkeyPatch.context() as patch:
        _pretend_cuda(patch, gpu, room)
        _pretend_elsewhere(patch, gpu)
        with Operations(gpu), Functions(gpu):
            yield gpu


def _pretend_cuda(patch: pytest.MonkeyPatch, gpu: PretendedGpu, room: int) -> None:
    random = SimpleNamespace(
        manual_seed=torch.default_generator.manual_seed,
        clone_state=lambda: None,
        graphsafe_set_state=lambda state: None,
    )
    pretended = {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "mem_get_info": lambda device: (room, room),
        "current_device": lambda: 0,
        "empty_cache": lambda: None,
        "default_generators": (random,),
        "set_sync_debug_mode": lambda mode: setattr(gpu, "warns", mode == "warn"),
        "CUDAGraph": lambda: Graph(gpu),
        "graph": gpu.recording,
    }
    for name, value in pretended.items():
        patch.setattr(torch.cuda, name, value)
    recording = SimpleNamespace(is_capturing=lambda: gpu.tape is not None)
    patch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: GPU)
    patch.setattr(torch.accelerator, "current_stream", lambda: recording)
    patch.setattr(Tensor, "record_stream", lambda tensor, stream: None, raising=False)
    autocast, fork_rng = torch.autocast, torch.random.fork_rng
    patch.setattr(torch, "autocast", lambda kind, **kwargs: autocast("cpu", **kwargs))
    patch.setattr(torch.random, "fork_rng", lambda devices=(): fork_rng(devices=[]))


def _pretend_elsewhere(patch: pytest.MonkeyPatch, gpu: PretendedGpu) -> None:
    patch.setattr(torch_engine, "Accelerator", lambda: SimpleNamespace(device=GPU))
    patch.setattr(inputs, "ThreadPoolExecutor", Executor)
    patch.setattr(graphs, "_host_randomness", lambda: 0)  # dropout's, which is the GPU's here
    step = Training.train_step
    grouped = torch_optimizer._group_tensors_by_device_and_dtype

    def watched(self: Training, *args: Any) -> None:
        gpu.in_step = True
        try:
            step(self, *args)
        finally:
            gpu.in_step = False

    def on_gpu(lists: Any, with_indices: bool = False) -> Any:
        places = GPU if gpu.holds(lists[0][0]) else HOST
        found = grouped(lists, with_indices)
        return {(places, dtype): group for (_, dtype), group in found.items()}

    patch.setattr(Training, "train_step", watched)
    patch.setattr(torch_optimizer, "_group_tensors_by_device_and_dtype", on_gpu)
    patch.setattr(torch.nn.utils.clip_grad, "_group_tensors_by_device_and_dtype", on_gpu)


def _alias(value: object) -> object:
    return value.detach() if isinstance(value, Tensor) else value


def _by_list(func: Any, args: Any) -> bool:
    """Whether something is taken of a tensor by numbers in a list, which are copied to its device."""
    if func is not Tensor.__getitem__:
        return False
    index = args[1] if isinstance(args[1], tuple) else args[1:]
    return any(isinstance(one, list) for one in index)


def _tensors(values: object) -> list[Tensor]:
    return [one for one in tree_leaves(values) if isinstance(one, Tensor)]
