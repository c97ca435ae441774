"""Engines of others that run exported models, each in a process of its own."""
