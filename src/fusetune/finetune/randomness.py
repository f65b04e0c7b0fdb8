# SPDX-License-Identifier: Apache-2.0
"""Random numbers as a pure function of (seed, epoch, row): never of global state.

That is what makes a resumed run equal to an unbroken one, whatever was drawn elsewhere.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["mixed_seed", "row_keys", "uniforms"]

Keys = npt.NDArray[np.uint64]


def row_keys(ids: Sequence[str] | npt.NDArray[np.str_]) -> Keys:
    """`(N,)` 64-bit hashes of row ids."""
    digests = b"".join(hashlib.blake2b(str(i).encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def mixed_seed(*parts: int | str) -> int:
    """A 63-bit seed from several numbers and words."""
    digest = hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def uniforms(seed: int, keys: Keys, num: int) -> npt.NDArray[np.float64]:
    """`(N, num)` numbers in [0, 1): each depends on the seed, its row's key and its column only.

    Reference:
        Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014
        (SplitMix64, used as a counter-based generator).
    """
    with np.errstate(over="ignore"):
        counter = np.arange(1, num + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = _mix(keys ^ np.uint64(seed))[:, None] + counter
        return (_mix(z) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: Keys) -> Keys:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
