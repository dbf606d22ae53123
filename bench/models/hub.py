"""Fetches files from the hub, or finds them in its cache; whatever the hub refuses becomes one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.errors import ModelLoadError

# Repositories repeat their weights: in folders (original/, onnx/, fp16/) and as Mistral's consolidated files.
_REPEATED = ["*/*", "consolidated*"]


def fetch_folder(repo: str, revision: str | None, patterns: Sequence[str], who: str) -> tuple[Path, str]:
    """Fetch the files of a repository's root whose names match `patterns`; returns their folder and the commit.

    Args:
        repo: `owner/name`.
        revision: commit, tag or branch; None: the hub's main branch.
        patterns: as in a shell.
        who: names the model (or adapter) in messages.

    Raises:
        ModelLoadError: there is no such repository, it is gated, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    with _told(repo, revision, who):
        folder = Path(
            snapshot_download(repo, revision=revision, allow_patterns=[*patterns], ignore_patterns=[*_REPEATED])
        )
    return folder, folder.name


def fetch_file(repo: str, name: str, revision: str | None, who: str) -> tuple[Path, str]:
    """Fetch one file of a repository, `name` being its path there; returns where it is now, and the commit.

    Raises:
        ModelLoadError: as `fetch_folder`, or there is no such file.
    """
    from huggingface_hub import hf_hub_download

    with _told(repo, revision, who, name):
        path = Path(hf_hub_download(repo, name, revision=revision))
    return path, path.parents[name.count("/")].name


@contextmanager
def _told(repo: str, revision: str | None, who: str, file: str = "") -> Iterator[None]:
    """Turn the hub client's errors into one line."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    where = f"{who}: {repo}" + (f" at revision {revision}" if revision else "")
    try:
        yield
    except GatedRepoError as error:
        raise ModelLoadError(f"{where} is gated: accept its licence on the hub and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise ModelLoadError(f"{where} was not found on the hub (misspelt, private, or HF_TOKEN missing)") from error
    except LocalEntryNotFoundError as error:
        raise ModelLoadError(f"{where} cannot be reached: no hub connection and no copy in the cache") from error
    except EntryNotFoundError as error:
        raise ModelLoadError(f"{where} has no file {file}") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelLoadError(f"{where} could not be downloaded: {reason}") from error
