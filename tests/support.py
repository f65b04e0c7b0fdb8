# SPDX-License-Identifier: Apache-2.0
"""What tests of whole runs share: a recipe that runs in seconds, and the command line."""

import os
import subprocess
import sys
from pathlib import Path

SHORT = """
task: image_classification
data:
  source: digits
  noise: 0.2
  roles: {train: 120, validation: 40, holdout: 120, test: 300}
finetune:
  epochs: 3
  batch_size: 32
  optimizer: {name: adamw, lr: 2e-3}
  augmentation: {flip: false, crop_padding: 1}
members:
  - mini:resnet
  - mini:vgg
  - {source: mini, model: inception, finetune: {train: head, epochs: 2}}
metric: accuracy
"""


def fusetune(
    *arguments: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "fusetune", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )
