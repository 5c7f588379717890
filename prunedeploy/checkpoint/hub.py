"""Checkpoints of the Hugging Face hub: from its cache on this machine, fetched where not there."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prunedeploy.core.errors import MissingExtra, UserError

SCHEME = re.compile("^hf:/{1,2}")  # a pathlib.Path has made one slash of two
NAME = r"[\w][\w.-]*"
REPOSITORY = re.compile(rf"(?P<name>{NAME}/{NAME})(?:@(?P<revision>[\w][\w./-]*))?", re.ASCII)
INDEX = ".index.json"


@dataclass(frozen=True)
class Repository:
    """A repository of models: ``name`` is ``owner/name``; ``revision`` a branch, tag or commit."""

    name: str
    revision: str | None


def parse(text: str, suffixes: Sequence[str]) -> Repository | None:
    """The repository that ``text`` names: ``owner/name``, ``owner/name@revision``, with ``hf://``
    in front or not; None for what is rather a path."""
    plain = SCHEME.sub("", text, count=1)
    match = REPOSITORY.fullmatch(plain)
    is_path = plain == text and (
        text.lower().endswith(tuple(suffixes)) or Path(text).parent.exists()
    )
    return None if match is None or is_path else Repository(match["name"], match["revision"])


def find(repository: Repository, names: Sequence[str]) -> Path:
    """The file of a repository that is called one of ``names``, in the cache on this machine.

    Of weights in several files it is their index, and all of them are in the cache, too. What the
    cache does not have is fetched, unless ``HF_HUB_OFFLINE=1`` says that it must not be.

    Raises:
        MissingExtra: no huggingface_hub.
        UserError: there is no such repository or file, or it cannot be fetched; the index in the
            cache is damaged.
    """
    path = _cached(repository, names) or _fetched_first(repository, names)
    if path.name.endswith(INDEX):
        for shard in _shards(path):
            if not (path.parent / shard).is_file():
                _fetched(repository, shard)
    return path


def _cached(repository: Repository, names: Sequence[str]) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        what = f"{repository.name} is no file here, and huggingface_hub, which looks on the hub,"
        raise MissingExtra(what, "hub") from None
    for name in names:
        try:
            cached = try_to_load_from_cache(repository.name, name, revision=repository.revision)
        except HFValidationError:  # the hub has rules of its own: no ``--``, no ``..``
            raise UserError(
                f"{repository.name} is no file here, and no name that a repository of the hub"
                " can have"
            ) from None
        if isinstance(cached, str):
            return Path(cached)
    return None


def _fetched_first(repository: Repository, names: Sequence[str]) -> Path:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        try:
            return _fetched(repository, name)
        except UserError as error:
            cause = error.__cause__
            if not isinstance(cause, EntryNotFoundError) or isinstance(
                cause, LocalEntryNotFoundError
            ):
                raise
    raise UserError(
        f"{repository.name} on the hub has no checkpoint under a usual name: fetch its file, and"
        " give that"
    )


def _fetched(repository: Repository, name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # its warnings say in other lines what the error says
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        return Path(hf_hub_download(repository.name, name, revision=repository.revision))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{repository.name} is no file here and not in the hub's cache, and its {name} cannot"
            f" be fetched from the hub ({lines[0]})"
        ) from error
    finally:
        logger.setLevel(level)


def _shards(index: Path) -> list[str]:
    from prunedeploy.checkpoint.shards import read_index

    return sorted(set(read_index(index).values()))
