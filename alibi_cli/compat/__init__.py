"""Names of other ALiBi implementations, kept importable."""
