# SPDX-License-Identifier: Apache-2.0
"""Methods that fuse what members decide of every pixel; averages are among the distributions."""
