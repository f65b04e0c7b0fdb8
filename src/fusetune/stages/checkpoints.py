# SPDX-License-Identifier: Apache-2.0
"""What stands for a checkpoint among the inputs of steps."""

from typing import Any

from fusetune.members.source import Source
from fusetune.store.artifact import canonical, file_checksum

__all__ = ["made_from"]


def made_from(source: Source) -> dict[str, Any]:
    """Inputs of a step that loads a source: its settings, and the checksums of its files.

    Weights that are fine-tuned do not say all that predicting with them hangs on: what images go
    through before, and the code of a network of one's own, are the source's.
    """
    return {
        "source": canonical(source),
        "files": [file_checksum(path) if path.is_file() else None for path in source.files()],
    }
