"""Converted checkpoints for other engines."""
