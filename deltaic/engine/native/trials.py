"""Scores and proofs of CPU code, from child processes that may die of it."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deltaic.engine.native.variants import Proof, Score

_SECONDS = 20.0  # a quarter of a second on an idle machine; a worker has 60 to start by default
_SLOW = "its test did not end in time"


def score_all(paths: Sequence[Path]) -> dict[Path, Score]:
    """Ask every library for its score. One that kills the process scores 0, and the rest are asked by another."""
    scores: dict[Path, Score] = {}
    left = list(paths)
    while left:
        answers, ending = _probe("score", left)
        scores |= {
            path: Score(int(answer["score"]), str(answer["error"])) for path, answer in zip(left, answers, strict=False)
        }
        left = left[len(answers) :]
        if left:
            scores[left.pop(0)] = Score(0, ending)
    return scores


def prove(path: Path) -> Proof:
    """Let a child process compute with the library."""
    answers, ending = _probe("prove", [path])
    if not answers:
        return Proof(error=ending)
    (answer,) = answers
    return Proof(tuple(answer["features"]), tuple(answer["buffers"]), str(answer["error"]))


def is_lasting(error: str) -> bool:
    """Whether a trial that ended so would end so again: one that a busy machine was too slow for might not."""
    return error != _SLOW


def _probe(what: str, paths: Sequence[Path]) -> tuple[list[dict[str, Any]], str]:
    """The answers that came before the child ended, at most one for each path, and how it ended."""
    command = [sys.executable, "-m", "deltaic.engine.native.probe", what, *map(str, paths)]
    try:
        child = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as slow:
        return _answers(slow.stdout or b"", len(paths)), _SLOW
    return _answers(child.stdout, len(paths)), _ending(child.returncode, child.stderr)


def _answers(raw: bytes, most: int) -> list[dict[str, Any]]:
    """Whole lines of JSON objects; a library may print lines of its own between them."""
    answers: list[dict[str, Any]] = []
    for line in raw.splitlines():
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict) and "error" in answer:
            answers.append(answer)
    return answers[:most]


def _ending(status: int, complaints: bytes) -> str:
    if status < 0:
        return f"it was ended by {signal.Signals(-status).name}"
    last = complaints.decode(errors="replace").strip().splitlines()[-1:]
    return f"it exited with status {status}" + (f" ({last[0][:200]})" if last else "")
