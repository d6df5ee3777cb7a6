#!/usr/bin/env python3
"""Make real consecutive versions of a real model, as GGUF files in the formats that models are published in.

    KIND-vN.FORMAT.gguf, where KIND is one of
    light, strong   v1 and v2 are consecutive fine-tunes of all weights of the demo model
    lora            v1 is light-v1 rounded to bfloat16; v2 has a rank-16 adapter merged
    sparse          v1 is the v1 of lora; v2 has one weight in twenty trained, and rounded to bfloat16

Versions that are there are kept. About 3 s a step on two idle cores, 1 GB a version in all formats. Arithmetic differs
between machines, so the files are not the same bytes everywhere; what is measured on them are ratios of one run.
"""

import argparse
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

KINDS = ("light", "strong", "lora", "sparse")
FORMATS = ("Q4_0", "Q4_1", "Q8_0", "Q4_K_M", "BF16", "F16")
BASE = "SmolLM2-135M-Instruct.Q4_1.gguf"
VERSIONS = (1, 2)
_SEED = 7


def version_path(folder: Path, kind: str, number: int, form: str) -> Path:
    """Where a version lies."""
    return folder / f"{kind}-v{number}.{form}.gguf"


def cache_folder() -> Path:
    """Where everything that is expensive to make is kept; the Makefile sets DELTAIC_CACHE."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DELTAIC_CACHE") or Path(base) / "deltaic")


def ensure(kind: str, formats: Sequence[str], folder: Path, base: Path, steps: int) -> None:
    """Make the versions of a kind in `folder`, unless all are there: formats of one training, or none.

    Raises OSError, RuntimeError.
    """
    if all(version_path(folder, kind, number, form).is_file() for number in VERSIONS for form in formats):
        return
    if kind in {"lora", "sparse"}:
        ensure("light", formats if "BF16" in formats else (*formats, "BF16"), folder, base, steps)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as making:
        _make(kind, formats, Path(making), base, steps, folder)
        for made in Path(making).iterdir():
            made.replace(folder / made.name)


def _make(kind: str, formats: Sequence[str], making: Path, base: Path, steps: int, folder: Path) -> None:
    import torch
    from finetunes_files import write_version
    from finetunes_training import RECIPES, Trainee

    torch.manual_seed(_SEED)
    recipe = RECIPES[kind]
    trainee = Trainee(version_path(folder, "light", 1, "BF16") if recipe.published else base, recipe)
    for number in VERSIONS:
        if number > 1 or not recipe.published:
            trainee.train(steps, partial(_say, f"{kind}-v{number}"))
        write_version(trainee.weights(), base, making / f"{kind}-v{number}", formats)


def _say(version: str, text: str) -> None:
    print(f"{version}: {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    parser.add_argument("--out", type=Path, default=cache_folder() / "bench-pairs")
    parser.add_argument("--base", type=Path, default=cache_folder() / "models" / BASE)
    parser.add_argument("--steps", type=int, default=20, help="training steps a version")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever else trains here is waited for
        for leftover in options.out.glob(".making-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for kind in options.kinds:
            ensure(kind, options.formats, options.out, options.base, options.steps)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
