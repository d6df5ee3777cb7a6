"""Load what computes, once in a process, before the first call of llama.cpp.

A wheel with loadable backends (GGML_BACKEND_DL) starts with nothing registered, and llama-cpp-python loads nothing
(issue 2069 of that project): a model would not load. Here the CPU code is chosen and loaded, and every other backend
that the wheel brings (CUDA, Metal, Vulkan...), if its driver is there. A wheel with everything built in is left alone.
"""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deltaic.engine.errors import CpuCodeUnusable
from deltaic.engine.native import trials
from deltaic.engine.native.evidence import Evidence
from deltaic.engine.native.ggml import Ggml, ggml, loadable_libraries
from deltaic.engine.native.variants import AUTOMATIC, Choice, Proof, choose, variant_name

VARIABLE = "DELTAIC_CPU_VARIANT"
BUILT_IN = "built in"


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """What computes in this process: the CPU code's name, its instruction sets, other backends, and why."""

    cpu: str
    features: tuple[str, ...]
    why: str
    others: tuple[str, ...] = field(default=())


_lock = threading.Lock()
_loaded: list[BackendChoice] = []


def load_backends(variant: str = AUTOMATIC, environ: Mapping[str, str] = os.environ) -> BackendChoice:
    """Choose and load; the second call in a process returns what the first has chosen.

    `variant` names the CPU code to use; "auto" takes what DELTAIC_CPU_VARIANT names, else the best that is proven.
    Raises CpuCodeUnusable: nothing runs here, the named code does not, or another was loaded before.
    """
    with _lock:
        if not _loaded:
            wanted = variant if variant != AUTOMATIC else environ.get(VARIABLE) or AUTOMATIC
            _loaded.append(_load(ggml(), wanted, environ))
        choice = _loaded[0]
    if variant not in (AUTOMATIC, choice.cpu):
        raise CpuCodeUnusable(
            f"this process already computes with {choice.cpu}", hint=f"ask for {variant} before anything else does"
        )
    return choice


def _load(registry: Ggml, wanted: str, environ: Mapping[str, str]) -> BackendChoice:
    libraries = loadable_libraries()
    entry = registry.registered("CPU")
    choice = None
    if entry is None:
        choice = _choose(libraries, wanted, environ)
        entry = registry.load(choice.path) if choice else None
        if choice is None or entry is None:
            raise CpuCodeUnusable(
                f"llama.cpp does not load {choice.path.name}" if choice else "the build has no CPU code",
                hint="build llama-cpp-python again: make clean setup",
            )
    elif wanted not in (AUTOMATIC, BUILT_IN):
        raise CpuCodeUnusable(
            f"there is no {wanted!r}: this build has one CPU code, built in", hint=f"unset {VARIABLE}"
        )
    others = tuple(_plain_name(path) for path in libraries if not variant_name(path) and registry.load(path))
    features = registry.features(entry)
    if choice is None:
        return BackendChoice(BUILT_IN, features, "the build has one CPU code", others)
    return BackendChoice(choice.name, features, choice.why, others)


def _choose(libraries: tuple[Path, ...], wanted: str, environ: Mapping[str, str]) -> Choice | None:
    variants = [path for path in libraries if variant_name(path)]
    if not variants:
        return None
    evidence = Evidence.of(variants, environ)
    scores = evidence.scores(variants)
    if scores is None:
        scores = trials.score_all(variants)
        evidence.keep_scores(scores)

    def prove(path: Path) -> Proof:
        proof = evidence.proof(path)
        if proof is None:
            proof = trials.prove(path)
            evidence.keep_proof(path, proof)
        return proof

    return choose(scores, prove, wanted)


def _plain_name(path: Path) -> str:
    return path.name.removeprefix("libggml-").split(".")[0]
