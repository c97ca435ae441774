"""Continued training, which heals converted checkpoints."""
