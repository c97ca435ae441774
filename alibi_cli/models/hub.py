"""Fetching a model from the Hugging Face Hub, through huggingface_hub and its cache."""

from pathlib import Path

from alibi_cli.errors import AlibiError, UsageError, first_line
from alibi_cli.files.inside import check_name
from alibi_cli.files.tensor_files import TensorInfo

# Weights in formats that are never read; a repository often holds the same weights four times.
FOREIGN_WEIGHTS = (
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
)
NEVER = [*FOREIGN_WEIGHTS, "original/*", "onnx/*"]


def download(model: str, revision: str | None, read_weights: bool = True) -> tuple[Path, str]:
    """Downloads what conversion needs of a repository; returns the snapshot folder and the resolved commit.

    read_weights: False leaves the weights where they are, unless the repository has only pickled ones.

    Raises:
        AlibiError: no such repository or revision, no access, or no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        ignored = [*NEVER, "*.bin", *([] if read_weights else ["*.safetensors"])]
        folder = Path(snapshot_download(model, revision=revision, ignore_patterns=ignored))
        if not any(folder.glob("*.safetensors")) and (read_weights or not _has_safetensors(model, folder)):
            folder = Path(snapshot_download(model, revision=revision, ignore_patterns=NEVER))
    except HFValidationError:
        raise UsageError(f"There is no folder {model}, and it is not the name of a Hub repository.") from None
    except GatedRepoError:
        raise AlibiError(
            f"Access to {model} is restricted.", hint="Ask for access on its page, then `hf auth login`."
        ) from None
    except RepositoryNotFoundError:
        raise UsageError(
            f"There is no folder and no Hub repository {model}.",
            hint="A private one needs `hf auth login`.",
        ) from None
    except RevisionNotFoundError:
        raise UsageError(f"{model} has no revision {revision}.") from None
    except LocalEntryNotFoundError:
        raise AlibiError(f"There is no folder {model}, and the Hub cannot be reached to look for it.") from None
    except (HfHubHTTPError, HTTPError, OSError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
            raise AlibiError(
                f"The Hub does not accept the token for {model}.", hint="Log in: `hf auth login`."
            ) from None
        # The first line: in others, a server may say back what it was sent.
        raise AlibiError(f"Downloading {model} failed: {first_line(error)}.", hint="Run again to go on.") from None
    return folder, folder.name  # a snapshot's folder is named after its commit


def _has_safetensors(model: str, folder: Path) -> bool:
    from huggingface_hub import HfApi

    names = ("model.safetensors", "model.safetensors.index.json")
    return (folder / names[1]).exists() or HfApi().file_exists(model, names[0], revision=folder.name)


def remote_tensors(model: str, commit: str, folder: Path) -> dict[str, tuple[Path, TensorInfo]]:
    """{tensor: (where its shard would be, where it lies there)}, from the headers of the repository's weight files."""
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        NotASafetensorsRepoError,
        OfflineModeIsEnabled,
        SafetensorsParsingError,
    )

    try:
        repository = get_safetensors_metadata(model, revision=commit)
    except (
        HfHubHTTPError,
        HTTPError,
        NotASafetensorsRepoError,
        OfflineModeIsEnabled,
        SafetensorsParsingError,
        OSError,
    ) as error:
        raise AlibiError(f"The weights of {model} cannot be read: {first_line(error)}.") from None
    found = {}
    for name, file in repository.files_metadata.items():
        check_name(folder, name)
        for tensor, info in file.tensors.items():
            found[tensor] = (folder / name, TensorInfo(str(info.dtype), tuple(info.shape), *info.data_offsets))
    return found
