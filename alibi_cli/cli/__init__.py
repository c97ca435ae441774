"""The command line. app.py wires, one module per command, output.py is the only place that prints."""

import sys


def main() -> None:
    """Loads and runs the command line. An interrupt ends it in one line even while it is still being loaded."""
    try:
        from alibi_cli.cli.app import main as run
    except KeyboardInterrupt:
        sys.stderr.write("Error: Interrupted.\n")  # what would print it nicely is not there yet
        sys.exit(130)
    run()
