"""Attention with ALiBi: a module for the reader's own model, and ways to compute it, registered by name for the parity tests and the benchmark."""
