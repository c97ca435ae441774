"""Our own progress and messages replace those of the libraries."""


def quiet_libraries() -> None:
    """Silences load reports, progress bars and retries; errors are kept."""
    import logging
    import warnings

    import huggingface_hub
    import transformers

    huggingface_hub.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="transformers")
