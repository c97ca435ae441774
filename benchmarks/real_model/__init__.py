"""What a conversion does to a real pretrained model, at every length up to twice its own: one command, `make study`."""
