"""One task of an encoding, as a process of a pool does it: two ranges of files in, a payload out.

Nothing is imported here that reads whole files: every process of the pool waits for its imports.
"""

from pathlib import Path

from deltaic.weights.chunks import Extent
from deltaic.weights.delta.choose import Made, Material, best
from deltaic.weights.delta.index import Codec
from deltaic.weights.delta.tasks import Task
from deltaic.weights.errors import BadLayout


def make(task: Task, source: Path, target: Path) -> Made:
    if task.reuse:
        return Made(Codec.REUSE, b"", 0)
    return best(
        Material(
            _read(target, task.target),
            task.target_type,
            _read(source, task.source),
            task.source_type,
            task.matrix,
        )
    )


def _read(path: Path, extent: Extent) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(extent.offset)
        data = file.read(extent.length)
    if len(data) != extent.length:
        raise BadLayout(f"{path.name} became shorter while it was read", hint="nobody may write to it meanwhile")
    return data
