"""What README and documentation show of llama.cpp is what the commands print."""

from tests.test_documentation import script


def test_what_the_pages_show_is_what_commands_print() -> None:
    script("write_console_output").main("llama.cpp", check=True)
