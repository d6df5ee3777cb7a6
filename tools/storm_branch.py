"""The branch that a storm goes over: its models, how they move, and what must be whole when it is over."""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli.demo.branch import Branch, serving
from cli.demo.models import DemoModels
from cli.demo.processes import Node
from cli.registry import move_channel
from deltaic.errors import DeltaicError
from deltaic.names import ChannelName, RevisionName
from deltaic.store.model_files import ModelFiles

ASSISTANT = "assistant"
CODE = "code"
LATE = "late"
FOLLOWED = (f"{ASSISTANT}/stable", f"{CODE}/stable", f"{LATE}/stable")
SETTLE_SECONDS = 240.0


@dataclass(slots=True)
class Library:
    """Revisions of each model by full name; `late` is published while the storm goes."""

    assistant: list[str] = field(default_factory=list)
    code: str = ""
    late: str = ""


async def fill(branch: Branch, models: DemoModels) -> Library:
    """Two revisions of one model, the second one served, and one of another; returns when every edge serves them."""
    old = await branch.publish(models.base, ASSISTANT)
    for edge in branch.edges.values():  # so that each keeps it as the one before
        await serving(edge, [old], SETTLE_SECONDS)
    library = Library([old, await branch.publish(models.tuned, ASSISTANT)])
    library.code = await branch.publish(models.code, CODE)
    for edge in branch.edges.values():
        await serving(edge, [library.assistant[1], library.code], SETTLE_SECONDS)
    return library


async def insist(over: asyncio.Event, step: Callable[[], Awaitable[str]]) -> str:
    """Try until it succeeds, since the center dies now and then; empty when the storm was over first."""
    while not over.is_set():
        try:
            return await step()
        except DeltaicError:
            await asyncio.sleep(0.5)
    return ""


async def move_until(over: asyncio.Event, branch: Branch, library: Library, models: DemoModels, seed: int) -> None:
    """Publish the late model, then move the assistant's channel between its revisions again and again."""
    dice = random.Random(seed)  # noqa: S311  # no secret: the same seed, the same storm
    library.late = await insist(over, lambda: branch.publish(models.retemplated, LATE))
    place = 0
    while not over.is_set():
        await asyncio.sleep(dice.uniform(3.0, 9.0))
        place = 1 - place
        revision = RevisionName.parse(library.assistant[place])
        await insist(over, lambda wanted=revision: _moved(branch.center, wanted))  # type: ignore[misc]


async def _moved(center: Node, revision: RevisionName) -> str:
    await move_channel(center.address, ChannelName(ASSISTANT, "stable"), revision)
    return str(revision)


async def settle(branch: Branch, library: Library, models: DemoModels) -> None:
    """After the storm: everything is published, and every edge serves the newest of it. Raises DeadlineExceeded."""
    if not library.late:
        library.late = await branch.publish(models.retemplated, LATE)
    await _moved(branch.center, RevisionName.parse(library.assistant[1]))
    wanted = {library.assistant[1], library.code, library.late}
    for edge in branch.edges.values():
        await serving(edge, wanted, SETTLE_SECONDS)


def damage(branch: Branch, held: Sequence[str]) -> list[str]:
    """What is no longer whole, in words. Call it when all nodes have ended.

    Every complete file of every edge is hashed chunk by chunk, every blob of the center whole; each edge must hold
    the revisions `held`.
    """
    found: list[str] = []
    for name, edge in branch.edges.items():
        files = ModelFiles(edge.data / "models")
        gone = [revision for revision in held if files.path(RevisionName.parse(revision).hex) is None]
        bad = {manifest.revision: len(files.damaged(manifest.digest.hex)) for manifest in files.revisions()}
        found += [f"{name} no longer holds {revision}" for revision in gone]
        found += [f"{name}: {count} chunks of {revision} are damaged" for revision, count in bad.items() if count]
    blobs = [blob for blob in (branch.center.data / "chunks").rglob("??/*") if blob.is_file() and len(blob.name) == 64]
    if not blobs:
        found.append("the center has no chunks")
    found += [f"center: the blob {blob.name} is damaged" for blob in blobs if _hex(blob) != blob.name]
    return found


def _hex(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
