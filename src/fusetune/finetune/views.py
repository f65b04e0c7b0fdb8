# SPDX-License-Identifier: Apache-2.0
"""Step function of one candidate: what its checkpoint, not fine-tuned, makes of some rows."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from fusetune.data.prepare import load_prepared
from fusetune.finetune.engine import Engine, Report
from fusetune.finetune.pixel_cache import with_pixels
from fusetune.members.source import Source
from fusetune.plugins import find
from fusetune.predictions.kinds import Array, Floats
from fusetune.store.artifact import write_json

__all__ = ["view_rows"]


def view_rows(
    folder: Path, source: Source, data: Path, rows: Mapping[str, Array], report: Report
) -> None:
    """Features of some rows of some roles, and the probabilities of the checkpoint's own classes.

    Args:
        folder: To write into.
        source: The candidate.
        data: Folder of the prepared rows.
        rows: Role → positions among all rows.
        report: Takes progress events.

    Writes:
        `features_<role>.npy`: `(n, D)` float32. `source_probs_<role>.npy`: `(n, S)` float32, where
        the source names the classes of the checkpoint's head. `cost.json`: `predict_per_row`
        (seconds, decoding included) and `parameters` (count).
    """
    prepared = load_prepared(data)
    own = source.own_classes()
    if own is None:
        member = source.load(prepared.classes)
    else:
        member = replace(source, head="keep", classes=own).load(own)
    engine = find(Engine, member.engine)()
    seen, seconds = with_pixels(prepared, member.preprocess, data, report), 0.0
    for role, positions in rows.items():
        before = time.perf_counter()
        features, outputs = engine.features(member, seen.prepared.images.take(positions), report)
        seconds += time.perf_counter() - before + seen.decode_per_row * len(positions)
        np.save(folder / f"features_{role}.npy", features)
        if own is not None:
            np.save(folder / f"source_probs_{role}.npy", _softmax(outputs))
    cost = {
        "predict_per_row": seconds / max(1, sum(map(len, rows.values()))),
        "parameters": engine.num_parameters(member),
    }
    write_json(folder / "cost.json", cost)


def _softmax(logits_NC: Floats) -> Floats:
    exp_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    probs_NC: Floats = exp_NC / exp_NC.sum(axis=1, keepdims=True)
    return probs_NC
