# SPDX-License-Identifier: Apache-2.0
"""Memory: what happens when it runs out, and keeping freed pages between steps."""

import contextlib
import ctypes
import gc
import platform
from collections.abc import Iterator

import torch

from fusetune.errors import MemberFailed
from fusetune.finetune.settings import FineTune
from fusetune.members.heads import NUM_TRIAL_ROWS, trial_outputs
from fusetune.members.member import Member

__all__ = ["finetune_bytes", "freed_memory_kept", "is_out_of_memory", "out_of_memory", "release"]

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
KEEP_ALL = ((M_TRIM_THRESHOLD, -1), (M_MMAP_MAX, 0))
GLIBC_DEFAULTS = ((M_TRIM_THRESHOLD, 128 * 1024), (M_MMAP_MAX, 65536))
WORDS = ("out of memory", "can't allocate memory")  # of a GPU, of the host


def is_out_of_memory(error: RuntimeError) -> bool:
    """True if a smaller batch may help."""
    text = str(error).lower()
    return any(words in text for words in WORDS)


def out_of_memory(member: Member) -> MemberFailed:
    """The error for a batch that cannot be divided further."""
    size = member.preprocess.size
    return MemberFailed(
        "memory does not suffice for two rows at a time",
        f"room for weights, gradients and images of {size} pixels",
        "Lower preprocess.size, write train: head, or take a smaller model.",
    )


def finetune_bytes(member: Member, settings: FineTune) -> int:
    """About how much memory fine-tuning takes on a CPU beside what is imported.

    Weights five times (gradients, two moments, the best epoch's), six times where they are averaged,
    and twice what autograd keeps of a batch, as measured on two rows: going back through it takes
    about as much again.
    """
    copies = 6 if settings.averages else 5
    weights = sum(p.nbytes for p in member.model.parameters())
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trial_outputs(member.model, member.preprocess.size, training=True)
    for parameter in member.model.parameters():
        kept.pop(parameter.data_ptr(), None)
    return copies * weights + 2 * sum(kept.values()) * settings.batch_size // NUM_TRIAL_ROWS


def release(device: torch.device) -> None:
    """Give back what a failed attempt held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextlib.contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Keep what is freed for the next step, on CPUs where glibc would give it back.

    Gradients of some 100 MB otherwise come as fresh pages, zeroed by the kernel, in every step: 40 %
    of VGG-16's time at 32 pixels. Takes up to a fifth more memory meanwhile.
    """
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    for parameter, value in KEEP_ALL:
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in GLIBC_DEFAULTS:
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)
