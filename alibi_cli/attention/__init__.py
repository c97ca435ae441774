"""Attention with ALiBi: modules for the reader's own model."""
