"""ALiBi for your own model: the bias and attention as modules."""
