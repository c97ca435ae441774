"""The command line. app.py wires, one module per command, output.py is the only place that prints."""
