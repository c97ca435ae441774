"""A page, tables and model cards from results that lie there already; no model is run."""
