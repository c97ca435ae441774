"""Long-range tasks, generated from a seed: what a model can do with distant text, which a flat perplexity does not show."""
