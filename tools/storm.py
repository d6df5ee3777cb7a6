#!/usr/bin/env python3
"""Kill edges, their index and the center, under load, and see that nothing wrong is said and nothing is lost.

    storm.py --minutes 10 --out bench/results/storm.json
    storm.py --minutes 1 --edges 3 --seed 4                 another branch, another order of kills

Real processes: a center, edges that follow three channels, and the Valkey that they share. Clients ask all edges all
the time; a channel moves between two revisions and a model is published while one process after the other gets a
SIGKILL, in turn first and then at random. An answer is right if it is the one, word for word, that the revision which
it names gave to the same question before the storm. A failure is good if it has a code to come again for and says when
(retry_after_ms) or how (a hint). At the end every edge must serve the newest of everything, and every file that it
holds and every chunk of the center must have its digest.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storm_asking import QUESTIONS, References, Tally, ask_until, collect_references, telling
from storm_branch import ASSISTANT, CODE, FOLLOWED, Library, damage, fill, move_until, settle
from storm_killing import kill_until

from cli.demo.branch import Branch
from cli.demo.models import DemoModels
from deltaic.errors import DeltaicError, FailedPrecondition
from deltaic.runtime.logs import configure_logs

CLIENTS = 4
PAUSE = (4.0, 9.0)
_SHOWN = 20


@dataclass(slots=True)
class Findings:
    """What a storm left."""

    tally: Tally
    killed: Counter[str] = field(default_factory=Counter)
    after: list[str] = field(default_factory=list)
    """What was not right when all was quiet again."""
    damaged: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """No wrong answer, no failure without advice, no lost byte, and something was asked and killed at all."""
        happened = self.killed and self.tally.answered
        return bool(happened) and not (self.tally.wrong or self.tally.untyped or self.after or self.damaged)


async def storm(
    folder: Path,
    seconds: float,
    *,
    edges: int = 2,
    seed: int = 1,
    pause: tuple[float, float] = PAUSE,
    questions: Sequence[str] = QUESTIONS,
) -> Findings:
    """One storm of so many seconds, set-up and settling not counted. Raises DeltaicError when it cannot begin or end.

    `pause` are the least and the most seconds between two kills. Of `questions` those are asked whose answers tell the
    revisions apart.
    """
    models = DemoModels.find()
    flags = ("--channels", ",".join(FOLLOWED), "--engine.threads", "1", "--engine.context-tokens", "1024")
    branch = Branch(folder, {f"edge{number}": flags for number in range(1, edges + 1)})
    async with branch.running():
        library = await fill(branch, models)
        references, told = await _references(branch, library, questions)
        findings = Findings(Tally(references))
        started = time.monotonic()
        await _go_over(branch, library, models, findings, told, seconds, seed, pause)
        findings.seconds = time.monotonic() - started
        await settle(branch, library, models)
        findings.after = await _asked_in_quiet(branch, findings.tally, told)
    held = (library.assistant[1], library.code, library.late)
    findings.damaged = await asyncio.to_thread(damage, branch, held)
    return findings


async def _references(branch: Branch, library: Library, questions: Sequence[str]) -> tuple[References, list[str]]:
    """From the center, which runs the same code on the same processor; questions that tell revisions apart."""
    revisions = (*library.assistant, library.code)
    references = await collect_references(branch.center.address, revisions, questions)
    told = telling(references, questions)
    if not told:
        raise FailedPrecondition("the revisions answer every question alike, so a mix-up would not show")
    return references, told


async def _go_over(
    branch: Branch,
    library: Library,
    models: DemoModels,
    findings: Findings,
    questions: list[str],
    seconds: float,
    seed: int,
    pause: tuple[float, float],
) -> None:
    over = asyncio.Event()
    nodes = [node.address for node in branch.edges.values()]
    asked = (ASSISTANT, ASSISTANT, CODE, *library.assistant)
    async with asyncio.TaskGroup() as group:
        killing = group.create_task(kill_until(over, branch, seed, pause))
        group.create_task(move_until(over, branch, library, models, seed))
        for number in range(CLIENTS):
            group.create_task(ask_until(over, nodes, asked, questions, findings.tally, seed * 100 + number))
        await asyncio.sleep(seconds)
        over.set()
    findings.killed = killing.result()


async def _asked_in_quiet(branch: Branch, tally: Tally, questions: list[str]) -> list[str]:
    """Every edge answers for every model, and right."""
    quiet, over = Tally(tally.references), asyncio.Event()
    for node in branch.edges.values():
        for model in (ASSISTANT, CODE):
            over.clear()
            client = asyncio.create_task(ask_until(over, [node.address], [model], questions, quiet, 7))
            over_soon = asyncio.get_running_loop().call_later(0.5, over.set)
            await client
            over_soon.cancel()
    return [*quiet.wrong, *quiet.untyped, *quiet.refused]


def report(options: argparse.Namespace, findings: Findings) -> dict[str, Any]:
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    head = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    tally = findings.tally
    return {
        "commit": head or "unknown",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "command": " ".join(["tools/storm.py", *sys.argv[1:]]),
        "seed": options.seed,
        "edges": options.edges,
        "seconds": round(findings.seconds, 1),
        "clean": findings.clean,
        "killed": dict(sorted(findings.killed.items())),
        "requests": tally.requests,
        "answered": dict(sorted(tally.answered.items())),
        "failed_with_advice": dict(tally.refused.most_common()),
        "failed_without_advice": tally.untyped[:_SHOWN],
        "wrong_answers": tally.wrong[:_SHOWN],
        "not_right_afterwards": findings.after[:_SHOWN],
        "lost_bytes": findings.damaged[:_SHOWN],
        "slowest_request_seconds": round(tally.longest, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the storm itself")
    parser.add_argument("--edges", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write what was found there too, as JSON")
    parser.add_argument("--keep", type=Path, help="an empty folder for data and logs, kept afterwards")
    options = parser.parse_args()
    configure_logs("warning", json=False)
    try:
        with tempfile.TemporaryDirectory(prefix="dlt-storm-") as scratch:
            folder = options.keep or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            findings = asyncio.run(storm(folder, 60 * options.minutes, edges=options.edges, seed=options.seed))
    except DeltaicError as error:
        print(f"storm: {error}", file=sys.stderr)
        return 1
    text = json.dumps(report(options, findings), indent=1, ensure_ascii=False)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)
    return 0 if findings.clean else 1


if __name__ == "__main__":
    raise SystemExit(main())
