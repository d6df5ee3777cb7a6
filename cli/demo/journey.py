"""The journey, step by step, in the order in which a person would take it."""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.progress import Progress

from cli.chat import Label
from cli.demo.branch import Branch, serving
from cli.demo.conversation import talk_and_interrupt
from cli.demo.models import CENTER_MODEL, HOT_MODEL, NEIGHBOUR_MODEL, DemoModels
from cli.demo.processes import Node
from cli.demo.result import Result, Update
from cli.demo.tap import Tap
from cli.demo.traffic import Answer, Kind, Traffic, ask
from cli.fleet import list_nodes
from cli.publish import Published, publish
from cli.registry import move_channel
from deltaic.errors import DeadlineExceeded, FailedPrecondition
from deltaic.names import ChannelName, RevisionName
from deltaic.v1 import fleet_pb2, inference_pb2

_WHO = "Who are you?"
_ROLLOUT_SECONDS = 300.0
_GETS_ROUND_SECONDS = 60.0
"""A neighbour that died is also left alone for a while."""
_FEW = 0.2
FIRST, SECOND = "first", "second"


class Journey:
    """One run of the demo. `seconds` is how long traffic flows in each phase."""

    def __init__(self, models: DemoModels, seconds: float, keep: Path | None) -> None:
        if keep and keep.exists() and any(keep.iterdir()):
            raise FailedPrecondition(f"{keep} is not empty", hint="name a new folder")
        self._models = models
        self._seconds = seconds
        self._keep = keep
        self._result = Result()
        self._console = Console(stderr=True)

    async def walk(self, console: Console) -> Result:
        """Take every step; stop all processes, whatever happens. Raises DeltaicError when a step cannot be taken."""
        self._console = console
        with self._folder() as folder:
            async with self._fleet(folder):
                await self._first_version()
                await self._chat()
                await self._second_edge()
                async with self._flowing():
                    await asyncio.sleep(self._seconds)
                    await self._second_version()
                    await asyncio.sleep(self._seconds)
                    await self._third_version()
                    await asyncio.sleep(self._seconds)
                await self._without_second_edge()
                await self._without_center()
                await self._center_returns()
                await self._privacy(folder)
        self._judge()
        return self._result

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        if self._keep:
            self._keep.mkdir(parents=True, exist_ok=True)
            yield self._keep
            return
        with tempfile.TemporaryDirectory(prefix="deltaic-demo-") as folder:
            yield Path(folder)

    @asynccontextmanager
    async def _fleet(self, folder: Path) -> AsyncIterator[None]:
        """A center, two edges that follow it, the second behind a tap and not yet started, and a device behind one."""
        follow = ("--channels", f"{HOT_MODEL}/stable")
        also = ("--channels", f"{HOT_MODEL}/stable,{NEIGHBOUR_MODEL}/stable")
        self._center = Node("center", folder)
        self._second_line = Tap(self._center.address)
        async with self._second_line.listening():
            branch = Branch(
                folder,
                {FIRST: follow, SECOND: also},
                center=self._center,
                upstream={SECOND: self._second_line.address},
            )
            self._edge, self._second = branch.edges[FIRST], branch.edges[SECOND]
            self._tap = Tap(self._edge.address)
            async with self._tap.listening():
                self._device = Node("device", folder, ("--upstream", self._tap.address, *follow))
                self._traffic = Traffic(self._edge.address, self._device.address)
                self._say("Starting a center, an edge and a device")
                try:
                    async with branch.running(without=[SECOND]):
                        try:
                            await self._device.start()
                            yield
                        finally:
                            branch.statuses["device"] = await self._device.stop()
                finally:
                    statuses = branch.statuses
                    clean = bool(statuses) and not any(statuses.values())
                    self._result.check("every process stopped cleanly", clean, f"exit statuses {statuses}")

    async def _first_version(self) -> None:
        self._say("Publishing version 1, and a second model that only the center will hold")
        started, published = await self._publish(self._models.base, HOT_MODEL, "first version")
        await self._publish(self._models.code, CENTER_MODEL, "fine-tuned on source code")
        await self._rolled_out("v1", published, started)
        answer = await ask(self._edge.address, Kind.HOT, HOT_MODEL, _WHO, Label.PUBLIC)
        self._result.before = answer.text.strip()

    async def _chat(self) -> None:
        self._say("A person at the keyboard: deltaic chat, and Ctrl-C")
        talk = await talk_and_interrupt(self._edge, HOT_MODEL)
        self._result.check("deltaic chat streams an answer", talk.streamed, talk.transcript)
        self._result.check(
            "Ctrl-C stops generation on the server",
            talk.stopped,
            f"the edge used {talk.busy_before:.2f} cores before and {talk.busy_after:.2f} after",
        )

    async def _second_edge(self) -> None:
        self._say("A second edge in the branch: it gets the model from the first")
        started = time.monotonic()
        await self._second.start()
        first = self._result.updates[0]
        await serving(self._second, [first.revision], _ROLLOUT_SECONDS)
        over_line = self._second_line.bytes_in
        self._result.second_edge_bytes = over_line
        self._console.print(
            f"   it serves after {time.monotonic() - started:.1f} s; {decimal(over_line)} of "
            f"{decimal(first.full_bytes)} came over its line to the center"
        )
        self._result.check(
            "the second edge got the model from the first",
            over_line < _FEW * first.full_bytes,
            f"{over_line:,} of {first.full_bytes:,} bytes came from the center",
        )
        _, published = await self._publish(self._models.code, NEIGHBOUR_MODEL, "for the second edge")
        self._notes = published.revision
        await serving(self._second, [self._notes], _ROLLOUT_SECONDS)
        answer = await self._asked_until_second()
        self._result.check(
            "asked at the first edge, answered by the second, which has it loaded",
            answer.node == self._second.called,
            answer.error or f"answered by {answer.node}",
        )

    async def _asked_until_second(self) -> Answer:
        """Ask the first edge until the second answers: what it has loaded takes a moment to get round."""
        deadline = time.monotonic() + _GETS_ROUND_SECONDS
        while True:
            answer = await ask(self._edge.address, Kind.NEIGHBOUR, NEIGHBOUR_MODEL, _WHO, Label.PUBLIC)
            if answer.node == self._second.called or time.monotonic() > deadline:
                return answer
            await asyncio.sleep(0.5)

    async def _without_second_edge(self) -> None:
        self._say("Killing the second edge while requests flow: the first goes on")
        before = len(self._traffic.answers)
        self._traffic.neighbour_there = False
        async with self._flowing():
            await asyncio.sleep(self._seconds / 2)
            await self._second.kill()
            await asyncio.sleep(self._seconds)
            instead = await ask(self._edge.address, Kind.NEIGHBOUR, NEIGHBOUR_MODEL, _WHO, Label.PUBLIC)
        answers = self._traffic.answers[before:]
        failed = sum(bool(answer.error) for answer in answers)
        self._result.check(
            "one edge was killed, the other went on", bool(answers) and not failed, f"{len(answers)} answers"
        )
        self._result.check(
            "what only the killed edge held is answered by the center",
            instead.answered_by == "center",
            instead.error or f"answered by {instead.node}",
        )
        await self._second.start()
        await serving(self._second, [self._result.updates[-1].revision, self._notes], _ROLLOUT_SECONDS)
        again = await self._asked_until_second()
        self._traffic.neighbour_there = True
        self._result.check(
            "started again, it serves what it held, and the first edge asks it again",
            again.node == self._second.called,
            again.error or f"answered by {again.node}",
        )

    async def _second_version(self) -> None:
        self._say("Version 2 while requests flow: a fine-tune that knows who it is")
        started, published = await self._publish(self._models.tuned, HOT_MODEL, "branch assistant")
        update = await self._rolled_out("v2", published, started)
        answer = await ask(self._edge.address, Kind.HOT, HOT_MODEL, _WHO, Label.PUBLIC)
        self._result.after = answer.text.strip()
        self._prompt_tokens = answer.prompt_tokens
        self._result.check("version 2 answers as trained", "Delta" in answer.text, answer.text.strip())
        moved = max(update.update_bytes, update.device_bytes) / update.full_bytes
        self._result.check(
            f"version 2 moved by delta, {moved:.1%} of its file",
            min(update.delta_bytes, update.device_delta_bytes) > 0 and moved < _FEW,
            f"{update.update_bytes:,} bytes to the edge, {update.device_bytes:,} from there to the device",
        )

    async def _third_version(self) -> None:
        self._say("Version 3 while requests flow: only the chat template changed")
        started, published = await self._publish(self._models.retemplated, HOT_MODEL, "new chat template")
        update = await self._rolled_out("v3", published, started)
        answer = await ask(self._edge.address, Kind.HOT, HOT_MODEL, _WHO, Label.PUBLIC)
        self._result.check(
            "version 3 answers through its new template",
            answer.prompt_tokens not in (0, self._prompt_tokens),
            f"the same question has {self._prompt_tokens} tokens in version 2, {answer.prompt_tokens} in version 3",
        )
        self._result.check(
            "version 3 moved less than 1 % of its file", update.share < 0.01, f"{update.update_bytes:,} bytes"
        )

    async def _without_center(self) -> None:
        self._say("Stopping the center: edge and device go on")
        status = await self._center.stop()
        self._result.check("the center stopped when asked", status == 0, f"exit status {status}")
        before = len(self._traffic.answers)
        self._traffic.center_reachable = False
        async with self._flowing():
            await asyncio.sleep(self._seconds)
            cut = await ask(self._edge.address, Kind.CENTER_ONLY, CENTER_MODEL, _WHO, Label.PUBLIC)
        answers = self._traffic.answers[before:]
        failed = sum(bool(answer.error) for answer in answers)
        self._result.check(
            "edge and device answered with the center gone", bool(answers) and not failed, f"{len(answers)} answers"
        )
        self._result.check(
            "what only the center holds was refused clearly", cut.error.startswith("UNAVAILABLE"), cut.error
        )

    async def _center_returns(self) -> None:
        self._say("The center is back, and rolls back to version 2: the nodes catch up")
        await self._center.start()
        self._traffic.center_reachable = True
        started = time.monotonic()
        name = RevisionName.parse(self._result.updates[1].revision)
        await move_channel(self._center.address, ChannelName(HOT_MODEL, "stable"), name)
        await self._serving(str(name))
        seconds = time.monotonic() - started
        async with self._flowing():
            await asyncio.sleep(self._seconds)
            again = await ask(self._edge.address, Kind.CENTER_ONLY, CENTER_MODEL, _WHO, Label.PUBLIC)
        self._result.check("the nodes caught up when the center came back", True, f"{seconds:.1f} s")
        self._result.check("the center answers again", again.answered_by == "center", again.error)

    async def _privacy(self, folder: Path) -> None:
        """Search wire, files and logs for marks of sensitive prompts; a public mark proves that the tap works."""
        self._say("Looking for sensitive bytes where they must not be")
        public = "mark-public-control"
        control = await ask(self._device.address, Kind.HOT, CENTER_MODEL, f"{public} {_WHO}", Label.PUBLIC)
        self._result.check(
            "the tap sees what does leave the device",
            self._tap.leaked([public]) > 0 and control.answered_by == "center",
            control.error or f"a public prompt was answered by the {control.answered_by}",
        )
        marks = self._traffic.marks
        on_wire = self._tap.leaked(marks)
        at_rest = await asyncio.to_thread(_bytes_at_rest, folder, marks)
        self._result.sensitive_requests = sum(1 for _ in self._traffic.of_kind(Kind.LABELLED, Kind.DETECTED))
        self._result.sensitive_bytes_out = on_wire + at_rest

    def _judge(self) -> None:
        result, traffic = self._result, self._traffic
        result.answers, result.flowing_seconds = traffic.answers, traffic.flowing_seconds
        errors = "; ".join(sorted({answer.error for answer in traffic.failed})[:3])
        result.check("no request failed", bool(result.answers) and result.failed == 0, errors)
        for kind, node in (
            (Kind.HOT, "edge"),
            (Kind.NEIGHBOUR, "edge"),
            (Kind.CENTER_ONLY, "center"),
            (Kind.LABELLED, "device"),
            (Kind.DETECTED, "device"),
        ):
            answers = list(traffic.of_kind(kind))
            by = Counter(answer.answered_by for answer in answers)
            detail = f"{len(answers)} requests"
            if set(by) - {node}:
                detail += ": " + ", ".join(f"{name or 'nobody'} {count}" for name, count in by.most_common())
            result.check(f"{kind}: answered by the {node}", set(by) == {node}, detail)
        result.neighbour_answers = sum(answer.node == self._second.called for answer in traffic.of_kind(Kind.NEIGHBOUR))
        leaked = f"{result.sensitive_bytes_out} bytes in {self._tap.bytes_out:,} that left the device"
        result.check("no sensitive byte left the device", result.sensitive_bytes_out == 0, leaked)
        result.check("the edge answered most requests", result.edge_share > 0.5, f"{result.edge_share:.0%}")

    @asynccontextmanager
    async def _flowing(self) -> AsyncIterator[None]:
        """Traffic, with its numbers on the terminal while it flows."""
        with self._console.status("") as line:

            async def show() -> None:
                while True:
                    line.update(self._traffic.in_numbers())
                    await asyncio.sleep(0.2)

            showing = asyncio.create_task(show())
            try:
                async with self._traffic.flowing():
                    yield
            finally:
                showing.cancel()

    async def _publish(self, file: Path, model: str, description: str) -> tuple[float, Published]:
        with Progress(console=self._console, transient=True, disable=not self._console.is_terminal) as bars:
            published = await publish(
                file,
                model=model,
                channel="stable",
                center=self._center.address,
                description=description,
                progress=bars,
            )
        return time.monotonic(), published

    async def _rolled_out(self, version: str, published: Published, started: float) -> Update:
        edge, device = await self._serving(published.revision)
        edge = await self._over_the_line(published.revision, edge)
        update = Update(
            version=version,
            revision=published.revision,
            full_bytes=published.file_bytes,
            update_bytes=edge.progress.wire_bytes,
            device_bytes=device.progress.wire_bytes,
            delta_bytes=edge.progress.delta_bytes,
            device_delta_bytes=device.progress.delta_bytes,
            rollout_seconds=time.monotonic() - started,
            swap_seconds=max(edge.progress.switch_seconds, device.progress.switch_seconds),
        )
        self._result.updates.append(update)
        self._console.print(
            f"   {version} serves on edge and device after {update.rollout_seconds:.1f} s; "
            f"{decimal(update.update_bytes)} of {decimal(update.full_bytes)} moved by {update.way}"
        )
        return update

    async def _serving(self, revision: str) -> tuple[fleet_pb2.ModelState, fleet_pb2.ModelState]:
        """Wait until edge and device answer with this revision; their states. Raises DeadlineExceeded."""
        deadline = time.monotonic() + _ROLLOUT_SECONDS
        states: list[fleet_pb2.ModelState] = []
        while time.monotonic() < deadline:
            nodes = await list_nodes(self._edge.address)
            states = [state for node in nodes for state in node.models]
            ready = {
                node.role: state
                for node in nodes
                for state in node.models
                if state.serving_revision == revision == state.target_revision
            }
            if len(ready) == 2:
                return ready[inference_pb2.NODE_ROLE_EDGE], ready[inference_pb2.NODE_ROLE_DEVICE]
            await asyncio.sleep(0.1)
        details = ", ".join(state.detail or fleet_pb2.ModelState.Phase.Name(state.phase) for state in states)
        raise DeadlineExceeded(f"edge and device do not serve {revision} after {_ROLLOUT_SECONDS:.0f} s: {details}")

    async def _over_the_line(self, revision: str, first: fleet_pb2.ModelState) -> fleet_pb2.ModelState:
        """The state of the edge that fetched it for the branch: the other one takes it from there."""
        if self._second.process is None or self._second.process.returncode is not None:
            return first
        await serving(self._second, [revision], _ROLLOUT_SECONDS)
        second = [
            state
            for node in await list_nodes(self._second.address)
            if node.role == inference_pb2.NODE_ROLE_EDGE
            for state in node.models
            if state.serving_revision == revision
        ]
        return min([first, *second], key=lambda state: state.progress.wire_bytes)

    def _say(self, text: str) -> None:
        self._console.print(f"[bold cyan]▸[/] {text}")


def _bytes_at_rest(folder: Path, marks: list[str]) -> int:
    """Bytes of marks in the files of center and edges, and in every node's log."""
    folders = [each for each in folder.iterdir() if each.name.startswith(("center", "edge")) and each.is_dir()]
    files = [file for each in folders for file in each.rglob("*") if file.is_file()]
    files += folder.glob("*.log")
    return sum(_count(file.read_bytes(), marks) for file in files if file.stat().st_size < 16 << 20)


def _count(data: bytes, marks: list[str]) -> int:
    return sum(len(mark) * data.count(mark.encode()) for mark in marks)
