"""Attention with ALiBi: a module for models of the reader's own, and backends by name for parity tests and benchmark."""
