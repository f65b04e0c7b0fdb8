"""Masks: the kind, the truth, tallies of pixels, and their files."""
