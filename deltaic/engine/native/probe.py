"""`python -m deltaic.engine.native.probe`: run code that may kill its process, in a process that may die.

    probe score FILE...    one line of JSON for each file, in their order, each written before the next is opened:
                           {"score": N, "error": ""}; 0 is what cannot run here
    probe prove FILE       one line: {"features": [...], "buffers": [...], "error": ""}; an empty error is the proof

A file that kills the process leaves its line out: the parent knows which one it was.
"""

import ctypes
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from deltaic.engine.native.ggml import ggml
from deltaic.engine.native.multiplication import Multiplication, WrongResult
from deltaic.engine.worker.process_limits import leave_no_core

_X86_64_ARCH_PRCTL = 158
_ARCH_REQ_XCOMP_PERM = 0x1023
_TILE_DATA = 18


def main(argv: Sequence[str]) -> int:
    leave_no_core()
    what, *files = argv
    if what == "prove":
        _say(_prove(Path(files[0])))
        return 0
    for file in files:
        _say(_score(Path(file)))
    return 0


def _say(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)  # noqa: T201  # what the parent reads


def _score(path: Path) -> dict[str, object]:
    """What the library itself says of this machine; it asks the processor, not the kernel."""
    ggml()  # the library needs libggml-base, which is found once it is loaded
    try:
        score = ctypes.CDLL(str(path)).ggml_backend_score
    except (OSError, AttributeError) as error:
        return {"score": 0, "error": str(error)}
    return {"score": int(score()), "error": ""}


def _prove(path: Path) -> dict[str, object]:
    """Compute with the library and compare; AMX only if the kernel grants its registers and its kernels ran."""
    registry = ggml()
    entry = registry.load(path)
    if entry is None:
        return _proof(error="llama.cpp does not load it")
    features = registry.features(entry)
    tiles = any(feature.startswith("AMX") for feature in features)
    if tiles and not _kernel_grants_tiles():
        return _proof(features, error="the kernel does not grant the registers of AMX")
    try:
        buffers = Multiplication(registry, entry).check()
    except WrongResult as error:
        return _proof(features, error=f"it computes wrongly: {error}")
    if tiles and "AMX" not in buffers:
        return _proof(features, buffers, error="AMX is compiled in and did not run")
    return _proof(features, buffers)


def _proof(features: Sequence[str] = (), buffers: Sequence[str] = (), *, error: str = "") -> dict[str, object]:
    return {"features": list(features), "buffers": list(buffers), "error": error}


def _kernel_grants_tiles() -> bool:
    """Ask Linux for the tile registers, as every process must before it uses them."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.syscall(_X86_64_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _TILE_DATA) == 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
