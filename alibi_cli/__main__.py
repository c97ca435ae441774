"""python -m alibi_cli"""

from alibi_cli.cli import main

main()
