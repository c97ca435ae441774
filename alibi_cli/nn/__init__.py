"""ALiBi for a model of one's own: the bias and attention as modules."""
