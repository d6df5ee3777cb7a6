"""The model files of the demo: where they are, and what to do when they are not."""

import os
from dataclasses import dataclass
from pathlib import Path

from deltaic.errors import FailedPrecondition

HOT_MODEL = "smollm2"
CENTER_MODEL = "smollm2-code"
NEIGHBOUR_MODEL = "smollm2-notes"


@dataclass(frozen=True, slots=True)
class DemoModels:
    """Three versions of one model, and a second model. See examples/models/README.md for what they are."""

    base: Path
    tuned: Path
    retemplated: Path
    code: Path

    @classmethod
    def find(cls) -> "DemoModels":
        """Look in DELTAIC_MODELS, else where `make models` puts them. Raises FailedPrecondition."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deltaic"
        folder = Path(os.environ.get("DELTAIC_MODELS") or Path(os.environ.get("DELTAIC_CACHE") or cache) / "models")
        found = cls(
            base=folder / "SmolLM2-135M-Instruct.Q4_1.gguf",
            tuned=folder / "smollm2-branch-assistant.Q4_1.gguf",
            retemplated=folder / "smollm2-branch-template.Q4_1.gguf",
            code=folder / "smollm2-code.Q4_1.gguf",
        )
        for file in (found.base, found.tuned, found.retemplated, found.code):
            if not file.is_file():
                raise FailedPrecondition(f"the demo needs {file}", hint="run 'make models' in the project's folder")
        return found
