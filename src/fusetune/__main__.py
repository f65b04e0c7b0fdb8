# SPDX-License-Identifier: Apache-2.0
"""`python -m fusetune` is the command `fusetune`."""

from fusetune.cli.main import main

if __name__ == "__main__":
    main()
