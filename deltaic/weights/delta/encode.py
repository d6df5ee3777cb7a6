"""Makes a delta from two GGUF files: each chunk of the target by the codec that measures shortest.

    layouts of both -> chunks hashed -> matched with the source -> (jobs) the shortest codec for each -> packs -> index

Needs both files on this disk. Memory: two chunks and what the codecs make of them, times the number of jobs.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver, get_context
from pathlib import Path

from deltaic.weights.chunks import Extent
from deltaic.weights.delta.choose import Made
from deltaic.weights.delta.index import Codec, DeltaIndex, DeltaSegment, Part, serialise
from deltaic.weights.delta.make import make
from deltaic.weights.delta.match import hash_chunks, match
from deltaic.weights.delta.tasks import Task
from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadLayout
from deltaic.weights.gguf_layout import read_layout
from deltaic.weights.layout import Layout

PACK_BYTES = 1 << 20
"""A pack is closed before it would have more than this, so that one that is lost on the way costs little."""

KeepPack = Callable[[Digest, bytes], None]
"""Takes a pack and the digest that names it; an exception from it ends the encoding."""
Progress = Callable[[int, int], None]


def encode(
    source: Path, target: Path, keep: KeepPack, *, jobs: int = 0, on_progress: Progress | None = None
) -> DeltaIndex:
    """A delta from `source` to `target`; its packs go to `keep`, in order, and the index refers to them.

    `jobs` processes encode (0: one for each core; 1: this one). `on_progress` gets bytes of the target done and in all.
    The same two files give the same delta, whatever the number of jobs.
    Raises NotGGUF, Truncated, BadLayout (a file that does not read or changes meanwhile, two architectures), OSError.
    """
    jobs = jobs or os.cpu_count() or 1
    if jobs > 1:
        _start_template()
    before, after = read_layout(source), read_layout(target)
    if before.architecture != after.architecture:
        raise BadLayout(
            f"{source.name} is of the architecture {before.architecture!r}, {target.name} of {after.architecture!r}",
            hint="a delta goes between versions of one architecture; send the whole file",
        )
    with ThreadPoolExecutor(2) as pool:
        old, new = pool.map(hash_chunks, (source, target), (before, after))
    packer = _Packer(keep)
    for task, made in _encoded(list(match(before, old, after, new)), source, target, jobs):
        packer.add(task, made)
        if on_progress:
            on_progress(task.target.offset + task.target.length, after.size)
    packer.close_pack()
    return packer.index(old.whole, new.whole, after)


class _Packer:
    """Gathers payloads into packs and remembers what the index must say."""

    def __init__(self, keep: KeepPack) -> None:
        self._keep = keep
        self._open: list[bytes] = []
        self._open_bytes = 0
        self._packs: list[Digest] = []
        self._parts: list[tuple[Task, Part]] = []
        self._changed: dict[int, int] = {}

    def add(self, task: Task, made: Made) -> None:
        payload = bytes(made.payload)
        if payload and self._open_bytes + len(payload) > PACK_BYTES:
            self.close_pack()
        source = task.source if made.codec in _READS_SOURCE else Extent(0, 0)
        part = Part(
            made.codec,
            task.segment,
            task.target.offset,
            task.target.length,
            source.offset,
            source.length,
            len(self._packs) if payload else -1,
            self._open_bytes,
            len(payload),
        )
        self._parts.append((task, part))
        self._changed[task.segment] = self._changed.get(task.segment, 0) + made.changed
        if payload:
            self._open.append(payload)
            self._open_bytes += len(payload)

    def close_pack(self) -> None:
        if not self._open:
            return
        data = b"".join(self._open)
        digest = Digest.of(data)
        self._keep(digest, data)
        self._packs.append(digest)
        self._open, self._open_bytes = [], 0

    def index(self, source: Digest, target: Digest, after: Layout) -> DeltaIndex:
        parts_of: dict[int, list[tuple[Task, Part]]] = {}
        for task, part in self._parts:
            parts_of.setdefault(task.segment, []).append((task, part))
        segments = [
            DeltaSegment(
                segment.kind,
                segment.name,
                segment.ggml_type,
                _source_type([task for task, _ in parts_of[number]]),
                segment.shape[0] if segment.shape else 0,
                self._changed[number],
                len(parts_of[number]),
            )
            for number, segment in enumerate(after.segments)
        ]
        data = serialise(source, target, segments, [part for _, part in self._parts], self._packs)
        return DeltaIndex.parse(data)


_READS_SOURCE = frozenset(Codec) - {Codec.RAW, Codec.ZSTD}


def _source_type(tasks: Sequence[Task]) -> str:
    return max((task.source_type for task in tasks), default="")


def _encoded(tasks: Sequence[Task], source: Path, target: Path, jobs: int) -> Iterator[tuple[Task, Made]]:
    """Each task with what was made of it, in order."""
    if jobs == 1 or sum(not task.reuse for task in tasks) < 2:
        for task in tasks:
            yield task, make(task, source, target)
        return
    with ProcessPoolExecutor(jobs, mp_context=_PROCESSES) as pool:
        waiting: deque[tuple[Task, Future[Made]]] = deque()
        try:
            for task in tasks:
                made = _made(task) if task.reuse else pool.submit(make, task, source, target)
                waiting.append((task, made))
                if len(waiting) > _WAITING * jobs:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _made(task: Task) -> Future[Made]:
    """What needs no process."""
    future: Future[Made] = Future()
    future.set_result(make(task, Path(), Path()))
    return future


def _start_template() -> None:
    """Start the process of which all that encode are copies, so that it has its imports when they are needed.

    Copies of this one would have locks that threads of gRPC or torch hold; processes from nothing import one by one.
    """
    _PROCESSES.set_forkserver_preload(["__main__", "deltaic.weights.delta.make"])
    with _one_thread_each():
        forkserver.ensure_running()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Children inherit this: matrices are small, and a core has a process already."""
    before = {name: os.environ.get(name) for name in _BLAS_THREADS}
    os.environ.update(dict.fromkeys(_BLAS_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_WAITING = 8
"""Tasks for each process that are made or wait, so that none is idle behind a large one."""
_PROCESSES = get_context("forkserver")
_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
