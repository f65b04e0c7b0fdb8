# SPDX-License-Identifier: Apache-2.0
"""Step function of a teacher, run in a worker process: what it says of the train rows."""

from pathlib import Path

import numpy as np

from fusetune.data.prepare import load_prepared
from fusetune.errors import MemberFailed, name_some
from fusetune.finetune.engine import Engine, Report
from fusetune.finetune.steps import member_with
from fusetune.members.source import Source
from fusetune.plugins import find

__all__ = ["LESSON", "teach"]

LESSON = "outputs.npy"


def teach(folder: Path, source: Source, data: Path, weights: Path, report: Report) -> None:
    """Predict the train rows with a member, on images as they are, for another to learn from.

    Writes:
        `outputs.npy`: `(N, ...)` float32 raw outputs, means over the views of test-time
        augmentation, in the order of the train rows.

    Raises:
        MemberFailed: It does not know all of the task's classes.
    """
    prepared = load_prepared(data)
    report({"phase": "teach"})
    member = member_with(source, prepared.classes, weights)
    if member.classes != prepared.classes:
        lacking = [name for name in prepared.classes if name not in member.classes]
        raise MemberFailed(
            f"the teacher '{source.member_name}' does not know {name_some(lacking)}",
            "a teacher that knows every class of the task",
            "Name another one.",
        )
    images = prepared.images.take(prepared.rows("train"))
    outputs = find(Engine, member.engine)().outputs(member, images, report)
    np.save(folder / LESSON, outputs.astype(np.float32))
