"""Our own progress and messages replace those of the libraries."""


def quiet_libraries() -> None:
    """Silences transformers' load reports and progress bars; its errors are kept."""
    import warnings

    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="transformers")
