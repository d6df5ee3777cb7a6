"""How many layers go to which GPU. Pure: sizes and free memory in, a plan and its reasons out.

llama.cpp gives the last layers to GPUs, the output first of all, and keeps the keys and values of a layer beside it.
With split mode `layer`, GPU 0 gets the first of those, GPU 1 the next, and so on: a plan's `tensor_split` are their
numbers, which llama.cpp turns into exactly these places.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from deltaic.engine.errors import PlacementRefused
from deltaic.engine.placement.gpus import Gpu
from deltaic.engine.placement.memory import MemoryNeed, compute_bytes, kv_bytes
from deltaic.engine.placement.model_facts import ModelFacts
from deltaic.engine.settings import EngineSettings

SplitMode = Literal["none", "layer", "row"]
_LEAST_RESERVE = 256 << 20  # the driver's context, its code, a stranger's window
_RESERVE_SHARE = 20
_HALVINGS = 24


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a model is put. `gpu_layers` of `layers` go to GPUs, `used` are the bytes planned on each.

    `host` is what stays in the host's memory, `why` are lines for people.
    """

    gpu_layers: int
    layers: int
    split_mode: SplitMode
    main_gpu: int
    tensor_split: tuple[int, ...]
    used: tuple[int, ...]
    host: MemoryNeed
    why: tuple[str, ...]


def make_plan(facts: ModelFacts, settings: EngineSettings, gpus: Sequence[Gpu]) -> Plan:
    """As many layers as fit, or as many as the settings ask for. Raises PlacementRefused."""
    _check_types(facts, settings)
    planner = _Planner(facts, settings, gpus)
    if not gpus or settings.gpu_layers == 0:
        asked = settings.gpu_layers not in ("auto", 0)
        wish = f"gpu_layers {settings.gpu_layers} was asked for, and " if asked else ""
        return planner.on_host("gpu_layers is 0" if settings.gpu_layers == 0 else f"{wish}there is no GPU here")
    if settings.split_mode == "none" and settings.main_gpu >= len(gpus):
        raise PlacementRefused(
            f"main_gpu is {settings.main_gpu} and there are {len(gpus)} GPUs", hint="they are counted from 0"
        )
    if settings.gpu_layers == "auto":
        return planner.most()
    return planner.exactly(facts.layers if settings.gpu_layers < 0 else min(settings.gpu_layers, facts.layers))


def ladder(facts: ModelFacts, settings: EngineSettings, gpus: Sequence[Gpu]) -> tuple[Plan, ...]:
    """The plan, and what to try in turn when memory runs out all the same: ever fewer layers, at last none.

    Raises PlacementRefused.
    """
    first = make_plan(facts, settings, gpus)
    planner, rungs = _Planner(facts, settings, gpus), [first]
    for quarters in (3, 2, 1):
        layers = first.gpu_layers * quarters // 4
        if 0 < layers < rungs[-1].gpu_layers:
            rungs.append(planner.exactly(layers, why=f"{rungs[-1].gpu_layers} layers on GPUs found no room"))
    if first.gpu_layers:
        rungs.append(planner.on_host(f"{rungs[-1].gpu_layers} layers on GPUs found no room"))
    return tuple(rungs)


def _check_types(facts: ModelFacts, settings: EngineSettings) -> None:
    """Quantised keys and values come in blocks of 32, which a head must be made of."""
    for name, kind, size in (
        ("kv_type_k", settings.kv_type_k, facts.head[0]),
        ("kv_type_v", settings.kv_type_v, facts.head[1]),
    ):
        if kind != "f16" and size % 32:
            raise PlacementRefused(
                f"{name} {kind} does not suit this model: a head has {size} elements, not a multiple of 32",
                hint=f"set {name} to f16",
            )


class _Planner:
    """The arithmetic of one model, one set of settings and one set of GPUs."""

    def __init__(self, facts: ModelFacts, settings: EngineSettings, gpus: Sequence[Gpu]) -> None:
        self._facts, self._settings, self._gpus = facts, settings, gpus
        self._compute = compute_bytes(facts, settings)
        self._weights = [*(block.bytes for block in facts.blocks), facts.output_bytes]
        self._kv = [*(kv_bytes(block, facts, settings) for block in facts.blocks), 0]
        self._rooms = [
            gpu.free - max(_LEAST_RESERVE, gpu.free // _RESERVE_SHARE) - self._compute if self._may_use(gpu) else -1
            for gpu in gpus
        ]

    def on_host(self, why: str) -> Plan:
        none = (0,) * len(self._gpus)
        return Plan(0, self._facts.layers, "none", 0, none, none, self._host(0), (f"no layer on a GPU: {why}",))

    def most(self) -> Plan:
        """The largest number of layers that fits."""
        for layers in range(self._facts.layers, 0, -1):
            plan = self._fitting(layers)
            if plan is not None:
                return plan
        why = f"the output and the memory of a step, {_mib(self._weights[-1] + self._compute)}, fit into no GPU"
        return self.on_host(f"{why} ({self._free()})")

    def exactly(self, layers: int, why: str = "") -> Plan:
        """So many layers, even where they do not seem to fit."""
        if layers == 0:
            return self.on_host(why or "gpu_layers is 0")
        plan = self._fitting(layers) or self._forced(layers)
        return replace(plan, why=(why, *plan.why)) if why else plan

    def _fitting(self, layers: int) -> Plan | None:
        mode = self._settings.split_mode
        if mode == "row":
            return self._rows(layers)
        sizes = self._sizes(layers)
        if mode in ("auto", "none"):
            alone = self._settings.main_gpu if mode == "none" else self._rooms.index(max(self._rooms))
            if sum(sizes) <= self._rooms[alone] and (mode == "none" or layers == self._facts.layers):
                return self._alone(layers, alone)
            if mode == "none":
                return None
        counts = _balanced(sizes, self._rooms)
        if counts is None:
            return None
        if len(self._gpus) == 1:
            return self._alone(layers, 0)
        return self._plan(layers, "layer", 0, counts, self._used_by_layers(sizes, counts))

    def _rows(self, layers: int) -> Plan | None:
        """Every matrix is cut in proportion to the room; a layer's keys and values stay whole."""
        margin = max(self._kv)
        shares = tuple(max(room - margin, 0) >> 20 for room in self._rooms)  # MiB: llama.cpp's floats hold them exactly
        whole = sum(shares)
        need = sum(self._weights[-layers:]) + layers * margin
        if not whole or need > whole << 20:
            return None
        used = tuple(need * share // whole + margin + self._compute if share else 0 for share in shares)
        return self._plan(layers, "row", 0, shares, used)

    def _forced(self, layers: int) -> Plan:
        """What was asked for, in proportion to the room that there is."""
        note = f"{layers} layers were asked for, which is more than the free memory seems to hold"
        sizes = self._sizes(layers)
        if self._settings.split_mode == "none" or len(self._gpus) == 1:
            plan = self._alone(layers, self._settings.main_gpu if self._settings.split_mode == "none" else 0)
        else:
            counts = _proportional(layers, [max(room, 0) for room in self._rooms])
            mode: SplitMode = "row" if self._settings.split_mode == "row" else "layer"
            plan = self._plan(layers, mode, 0, counts, self._used_by_layers(sizes, counts))
        return replace(plan, why=(note, *plan.why))

    def _alone(self, layers: int, gpu: int) -> Plan:
        counts = tuple(layers if index == gpu else 0 for index in range(len(self._gpus)))
        used = tuple(sum(self._sizes(layers)) + self._compute if count else 0 for count in counts)
        return self._plan(layers, "none", gpu, counts, used)

    def _plan(self, layers: int, mode: SplitMode, main: int, split: tuple[int, ...], used: tuple[int, ...]) -> Plan:
        total = self._facts.layers
        one = f"{layers} of {total} layers on {sum(1 for size in used if size)} of {len(self._gpus)} GPUs"
        why = [f"{one}, {_mib(sum(used))} planned ({self._free()})"]
        if layers < total:
            why.append(f"all {total} would take {_mib(sum(self._weights) + sum(self._kv) + self._compute)}")
        return Plan(layers, total, mode, main, split, used, self._host(layers), tuple(why))

    def _sizes(self, layers: int) -> list[int]:
        """Bytes of the layers that go to GPUs: the last ones."""
        return [weight + kv for weight, kv in zip(self._weights[-layers:], self._kv[-layers:], strict=True)]

    def _used_by_layers(self, sizes: Sequence[int], counts: Sequence[int]) -> tuple[int, ...]:
        used, start = [], 0
        for count in counts:
            used.append(sum(sizes[start : start + count]) + self._compute if count else 0)
            start += count
        return tuple(used)

    def _host(self, layers: int) -> MemoryNeed:
        kept = len(self._weights) - layers
        return MemoryNeed(self._facts.input_bytes + sum(self._weights[:kept]), sum(self._kv[:kept]), self._compute)

    def _may_use(self, gpu: Gpu) -> bool:
        return self._settings.split_mode != "none" or gpu.index == self._settings.main_gpu

    def _free(self) -> str:
        return ", ".join(f"{gpu.name}: {_mib(gpu.free)} free" for gpu in self._gpus)


def _balanced(sizes: Sequence[int], rooms: Sequence[int]) -> tuple[int, ...] | None:
    """How many of `sizes`, in their order, go to each room: every room filled about as far; None: no room."""
    best = _filled(sizes, rooms)
    if best is None:
        return None
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        counts = _filled(sizes, [int(room * middle) if room > 0 else room for room in rooms])
        if counts is None:
            low = middle
        else:
            best, high = counts, middle
    return best


def _filled(sizes: Sequence[int], rooms: Sequence[int]) -> tuple[int, ...] | None:
    """Fill one room after the other: what fits in their order at all, fits so."""
    counts, room, left = [0] * len(rooms), 0, rooms[0]
    for size in sizes:
        while size > left:
            room += 1
            if room == len(rooms):
                return None
            left = rooms[room]
        left -= size
        counts[room] += 1
    return tuple(counts)


def _proportional(layers: int, rooms: Sequence[int]) -> tuple[int, ...]:
    """`layers` shared out by room; evenly where there is none. The largest remainders get what rounding leaves."""
    weights = rooms if any(rooms) else [1] * len(rooms)
    exact = [layers * weight / sum(weights) for weight in weights]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(rooms)), key=lambda index: counts[index] - exact[index])
    for index in by_remainder[: layers - sum(counts)]:
        counts[index] += 1
    return tuple(counts)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.0f} MiB"
