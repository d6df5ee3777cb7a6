"""What was found out about CPU code, kept until the next boot: trials take half a second, and a worker starts often.

    $DELTAIC_CACHE, else $XDG_CACHE_HOME/deltaic, else ~/.cache/deltaic
    └── cpu/<key>.json    scores and proofs by file name

The key is a digest of the boot, of what the kernel says of the processor, and of the libraries' names, sizes and times:
another wheel, another machine or another boot asks again. Without a boot's name (not Linux) nothing is kept.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deltaic.engine.native.trials import is_lasting
from deltaic.engine.native.variants import Proof, Score

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PROCESSOR = Path("/proc/cpuinfo")
_TELLING = ("vendor_id", "model", "cpu family", "stepping", "microcode", "flags", "CPU part", "Features")


class Evidence:
    """Scores and proofs for one set of libraries. Reading and writing fail silently: it is all found out again."""

    def __init__(self, file: Path | None) -> None:
        """`file` None keeps nothing."""
        self._file = file
        self._known: dict[str, Any] = _read(file)

    @classmethod
    def of(cls, libraries: Sequence[Path], environ: Mapping[str, str]) -> "Evidence":
        """What is known of these libraries on this boot."""
        try:
            folder, key = _cache(environ), _key(libraries)
        except (OSError, RuntimeError):  # no /proc, no home, a library that is just being replaced
            return cls(None)
        return cls(folder / "cpu" / f"{key}.json")

    def scores(self, paths: Sequence[Path]) -> dict[Path, Score] | None:
        """The scores, if every one is known."""
        try:
            known = self._known["scores"]
            return {path: Score(int(known[path.name]["value"]), str(known[path.name]["error"])) for path in paths}
        except (KeyError, TypeError, ValueError):
            return None

    def keep_scores(self, scores: Mapping[Path, Score]) -> None:
        if all(is_lasting(score.error) for score in scores.values()):
            self._known["scores"] = {path.name: asdict(score) for path, score in scores.items()}
            self._write()

    def proof(self, path: Path) -> Proof | None:
        try:
            known = self._known["proofs"][path.name]
            return Proof(tuple(map(str, known["features"])), tuple(map(str, known["buffers"])), str(known["error"]))
        except (KeyError, TypeError):
            return None

    def keep_proof(self, path: Path, proof: Proof) -> None:
        if is_lasting(proof.error):
            proofs = self._known.setdefault("proofs", {})
            proofs[path.name] = asdict(proof)
            self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._file.parent, suffix=".part")
            try:
                with os.fdopen(handle, "w") as file:
                    json.dump(self._known, file)
                Path(name).replace(self._file)
            except OSError:
                Path(name).unlink(missing_ok=True)


def _read(file: Path | None) -> dict[str, Any]:
    try:
        known = json.loads(file.read_bytes()) if file else {}
    except (OSError, ValueError):
        return {}
    sound = isinstance(known, dict) and all(isinstance(part, dict) for part in known.values())
    return known if sound else {}


def _cache(environ: Mapping[str, str]) -> Path:
    if chosen := environ.get("DELTAIC_CACHE"):
        return Path(chosen)
    if chosen := environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "deltaic"
    return Path.home() / ".cache" / "deltaic"


def _key(libraries: Sequence[Path]) -> str:
    facts = [_BOOT.read_text().strip(), *_processor()]
    for path in libraries:
        status = path.stat()
        facts.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:24]


def _processor() -> list[str]:
    """What /proc/cpuinfo says of the kinds of cores; clock rates and the like change by the second."""
    lines = _PROCESSOR.read_text().splitlines()
    return sorted({line for line in lines if line.split(":")[0].strip() in _TELLING})
