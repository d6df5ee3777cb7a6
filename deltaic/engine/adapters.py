"""Where a node's LoRA adapters lie: `FOLDER/MODEL/NAME.gguf`, loaded when the model is served."""

import re
from pathlib import Path

import structlog

_log = structlog.get_logger(__name__)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What can name an adapter."""


def adapters_in(folder: Path | None, model: str) -> dict[str, Path]:
    """Files by adapter name; none where there is no such folder. A file whose name cannot be one is left out."""
    if folder is None:
        return {}
    try:
        files = sorted((folder.absolute() / model).glob("*.gguf"))
    except OSError as error:
        _log.warning("adapters.unreadable", folder=str(folder), why=error.strerror)
        return {}
    for file in files:
        if not NAME.fullmatch(file.stem):
            _log.warning("adapter.unusable_name", file=file.name)
    return {file.stem: file for file in files if NAME.fullmatch(file.stem)}
