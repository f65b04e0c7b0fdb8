"""The torch engine's parts; read loop.py first."""
