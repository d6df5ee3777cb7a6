"""What the kernel's control groups say of memory: how much a group may still take, and whom it killed for it.

Both generations are read (v2 `memory.max`, `memory.current`, `memory.stat`, `memory.events`; v1
`memory.limit_in_bytes`, `memory.usage_in_bytes`, `memory.stat`, `memory.oom_control`). What cannot be read does not
limit.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_MOUNT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class _Names:
    """Files of one generation; `cache` is the key of page cache that can be dropped."""

    limit: str
    used: str
    cache: str
    kills: str


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "memory.oom_control")
_V2 = _Names("memory.max", "memory.current", "inactive_file", "memory.events")


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """The memory group of a process, and those that it is in; none on a kernel without them."""

    folders: tuple[Path, ...]
    names: _Names = _V2
    proc: Path = _PROC

    @classmethod
    def of(cls, pid: int | str = "self", *, proc: Path = _PROC, mount: Path = _MOUNT) -> "MemoryGroup":
        """The group that the process is in now."""
        for line in _lines(proc / str(pid) / "cgroup"):
            _, controllers, group = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            top, names = (mount / "memory", _V1) if controllers else (mount, _V2)
            # Inside a container of the first generation the group is the top, whatever it is called outside.
            for folder in (top / group.lstrip("/"), top):
                if (folder / names.kills).is_file():
                    inside = [each for each in (folder, *folder.parents) if each == top or top in each.parents]
                    return cls(tuple(inside), names, proc)
        return cls((), proc=proc)

    def room(self) -> int:
        """Bytes that the group may still take, what can be dropped of its page cache included."""
        rooms = [sys.maxsize]
        for folder in self.folders:
            limit, used = _number(folder / self.names.limit), _number(folder / self.names.used)
            if limit is not None and used is not None:
                rooms.append(max(0, limit - used + _table(folder / "memory.stat").get(self.names.cache, 0)))
        return min(rooms)

    def kills(self) -> int:
        """Processes that the kernel killed so far because memory ran out: of the group, or else of the machine."""
        file = self.folders[0] / self.names.kills if self.folders else self.proc / "vmstat"
        return _table(file).get("oom_kill", 0)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


def _number(file: Path) -> int | None:
    """The number in a file; None where there is none, or the word `max`."""
    words = " ".join(_lines(file)).split()
    return int(words[0]) if words and words[0].isdigit() else None


def _table(file: Path) -> dict[str, int]:
    """Lines of a word and a number."""
    pairs = [line.split() for line in _lines(file)]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
