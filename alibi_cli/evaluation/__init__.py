"""text -> documents -> windows -> scores (one NLL per token) -> statistics -> table, JSON, plot."""
