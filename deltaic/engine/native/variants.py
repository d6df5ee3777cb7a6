"""Which CPU code to use, of those that a build brings. Pure: who scores and proves is handed in.

A build with runtime variants carries llama.cpp's CPU code several times, each time compiled for more instruction sets.
Each says by its score whether the processor has them; the score does not know what the kernel or a hypervisor grants,
so a variant is used only after it has computed something in a process that was allowed to die of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deltaic.engine.errors import CpuCodeUnusable

AUTOMATIC = "auto"
_PREFIX = "libggml-cpu-"


@dataclass(frozen=True, slots=True)
class Score:
    """What a variant says of this machine: higher is better, 0 cannot run; `error` when it could not even be asked."""

    value: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of running a variant; it may be used when `error` is empty. `buffers` names the kernels that ran."""

    features: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A variant, the proof that it runs, and why it is this one."""

    name: str
    path: Path
    proof: Proof
    why: str


def variant_name(path: Path) -> str:
    """`haswell` of libggml-cpu-haswell.so; empty for a library that is no CPU code."""
    name = path.name.split(".so")[0].removesuffix(".dylib")
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else ""


def choose(scores: Mapping[Path, Score], prove: Callable[[Path], Proof], wanted: str = AUTOMATIC) -> Choice:
    """The best variant that is proven, or the wanted one if it is. Raises CpuCodeUnusable."""
    if wanted != AUTOMATIC:
        return _wanted(scores, prove, wanted)
    ranked = sorted((path for path in scores if scores[path].value > 0), key=lambda path: (-scores[path].value, path))
    passed: list[str] = []
    for path in ranked:
        proof = prove(path)
        if not proof.error:
            return Choice(variant_name(path), path, proof, _why(len(ranked), len(scores), passed))
        passed.append(f"{variant_name(path)} was passed over: {proof.error}")
    raise CpuCodeUnusable(
        "; ".join(["none of the build's CPU code runs on this machine", *passed]),
        hint="build the engine on this machine: DELTAIC_CMAKE_ARGS=-DGGML_NATIVE=ON make setup",
    )


def _wanted(scores: Mapping[Path, Score], prove: Callable[[Path], Proof], wanted: str) -> Choice:
    path = next((path for path in scores if variant_name(path) == wanted), None)
    if path is None:
        raise CpuCodeUnusable(f"the build has no CPU code named {wanted!r}", hint=f"it has {_listed(scores)}")
    if scores[path].value <= 0:
        reason = scores[path].error or "the processor lacks instructions that it uses"
        raise CpuCodeUnusable(f"the CPU code {wanted} cannot run here: {reason}", hint=f"there are {_listed(scores)}")
    proof = prove(path)
    if proof.error:
        raise CpuCodeUnusable(
            f"the CPU code {wanted} failed its test: {proof.error}", hint=f"there are {_listed(scores)}"
        )
    return Choice(wanted, path, proof, "asked for by the setting cpu_variant or DELTAIC_CPU_VARIANT, and proven to run")


def _why(able: int, built: int, passed: list[str]) -> str:
    best = f"best of the {able} that this processor can run, out of {built} built; proven by a test multiplication"
    return "; ".join([best, *passed])


def _listed(scores: Mapping[Path, Score]) -> str:
    """For people: names, the best first, and which of them are of no use here."""
    able = sorted((path for path in scores if scores[path].value > 0), key=lambda path: -scores[path].value)
    unable = sorted(variant_name(path) for path in scores if scores[path].value <= 0)
    text = ", ".join([AUTOMATIC, *map(variant_name, able)])
    return f"{text} (and, not for this machine, {', '.join(unable)})" if unable else text
