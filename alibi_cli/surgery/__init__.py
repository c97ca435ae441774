"""Surgery on models in memory."""
