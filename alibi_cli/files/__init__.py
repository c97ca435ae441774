"""Files as bytes: written whole or not at all, copied, hashed, and read as tensors or JSON. Nothing here knows what a model is."""
