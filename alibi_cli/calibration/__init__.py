"""Slopes from the model's own attention, so that less of it is lost."""
