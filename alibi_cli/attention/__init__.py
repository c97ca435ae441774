"""Ways to compute attention with ALiBi, registered by name; the parity tests and the benchmark take whatever is registered."""
