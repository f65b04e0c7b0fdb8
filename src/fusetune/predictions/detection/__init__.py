"""Boxes: the kind, the truth, matches, and their files."""
