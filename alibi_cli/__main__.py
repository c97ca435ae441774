"""python -m alibi_cli"""

from alibi_cli.cli.app import main

main()
