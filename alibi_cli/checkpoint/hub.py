"""Fetching a model from the Hugging Face Hub, through huggingface_hub and its cache."""

from pathlib import Path

from alibi_cli.errors import EXIT_USAGE, AlibiError

# Formats that are never read; a repository often holds the same weights four times.
NEVER = [
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.onnx",
    "*.onnx_data",
    "*.gguf",
    "*.tflite",
    "*.ckpt",
    "*.pt",
    "*.pth",
    "original/*",
    "onnx/*",
]


def download(model: str, revision: str | None) -> tuple[Path, str]:
    """Downloads what conversion needs of a repository; returns the snapshot folder and the resolved commit.

    Raises:
        AlibiError: no such repository or revision, no access, or no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = Path(snapshot_download(model, revision=revision, ignore_patterns=[*NEVER, "*.bin"]))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(model, revision=revision, ignore_patterns=NEVER))
    except HFValidationError:
        raise AlibiError(
            f"There is no folder {model}, and it is not the name of a Hub repository.", exit_code=EXIT_USAGE
        ) from None
    except GatedRepoError:
        raise AlibiError(
            f"Access to {model} is restricted.", hint="Ask for access on its page, then `hf auth login`."
        ) from None
    except RepositoryNotFoundError:
        raise AlibiError(
            f"There is no folder and no Hub repository {model}.",
            hint="A private one needs `hf auth login`.",
            exit_code=EXIT_USAGE,
        ) from None
    except RevisionNotFoundError:
        raise AlibiError(f"{model} has no revision {revision}.", exit_code=EXIT_USAGE) from None
    except LocalEntryNotFoundError:
        raise AlibiError(f"There is no folder {model}, and the Hub cannot be reached to look for it.") from None
    except (HfHubHTTPError, OSError) as error:
        raise AlibiError(f"Downloading {model} failed: {str(error).splitlines()[0]}") from None
    return folder, folder.name  # a snapshot's folder is named after its commit
