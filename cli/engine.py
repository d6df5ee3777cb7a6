"""`deltaic engine`: what computes on this machine, and where a model would be put."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.plain.files import given_file
from cli.screen import JsonOption, print_json
from cli.tables import print_line, print_rows

if TYPE_CHECKING:
    from deltaic.engine.native.backends import BackendChoice
    from deltaic.engine.placement.gpus import Gpu
    from deltaic.engine.placement.memory import MemoryNeed
    from deltaic.engine.placement.plan import Plan
    from deltaic.engine.settings import EngineSettings

_NUMBERS = ("free", "memory", "planned", "layers", "bytes")

_Variant = Annotated[str, typer.Option("--cpu-variant", help="CPU code to try; by default the best proven.")]
_Slots = Annotated[int, typer.Option("--slots", help="Requests answered at the same time.")]
_Context = Annotated[int, typer.Option("--context-tokens", help="Tokens of one request, prompt and answer.")]
_Layers = Annotated[str, typer.Option("--gpu-layers", help="auto, -1 for all, or a number.")]
_Split = Annotated[str, typer.Option("--split-mode", help="auto, none, layer or row.")]
_KeyType = Annotated[str, typer.Option("--kv-type-k", help="Type of keys: f16, q8_0 or q4_0.")]
_ValueType = Annotated[str, typer.Option("--kv-type-v", help="Type of values: f16, q8_0 or q4_0.")]


def register(app: typer.Typer) -> None:
    engine = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode="rich",
        help="See what computes on this machine and where a model would be put. No node needs to run.",
    )
    engine.command("info")(info)
    engine.command("plan")(plan)
    app.add_typer(engine, name="engine", rich_help_panel="Operate")


def info(variant: _Variant = "auto", as_json: JsonOption = False) -> None:
    """Show which CPU code a worker would use here and why, its instruction sets, and the GPUs.

    The engine's build carries its CPU code several times, for older and newer processors. A worker takes the best
    that this processor can run and that has passed a test multiplication in a process of its own, so that code the
    kernel or a hypervisor does not support kills the test and no worker. What was found out is kept until the next
    boot. Another choice: [bold]--engine.cpu-variant haswell[/bold] for a node, or DELTAIC_CPU_VARIANT=haswell.

    Example: [bold]deltaic engine info --json[/bold]
    """
    backend, gpus = _look(variant)
    if as_json:
        print_json(asdict(backend) | {"gpus": [asdict(gpu) for gpu in gpus]})
        return
    print_line(f"CPU code  {backend.cpu}", "bold")
    print_line(f"why       {backend.why}")
    print_line(f"features  {' '.join(backend.features)}")
    print_line(f"loaded    {', '.join(('CPU', *backend.others))}")
    _print_gpus(gpus)


def plan(
    file: Annotated[Path, typer.Argument(help="A GGUF file.")],
    slots: _Slots = 4,
    context_tokens: _Context = 2048,
    gpu_layers: _Layers = "auto",
    split_mode: _Split = "auto",
    kv_type_k: _KeyType = "f16",
    kv_type_v: _ValueType = "f16",
    as_json: JsonOption = False,
) -> None:
    """Show how much memory a model would take with these settings, and which of its layers would go to which GPU.

    The options are the settings of a node: --engine.slots there is --slots here. Estimates are upper bounds; below the
    plan stands what a worker tries next when memory runs out all the same, at last no GPU.

    Example: [bold]deltaic engine plan model.gguf --slots 16 --context-tokens 8192 --kv-type-v q8_0[/bold]
    """
    from deltaic.engine.placement.memory import estimate
    from deltaic.engine.placement.model_facts import read_facts
    from deltaic.engine.placement.plan import ladder

    given_file(file, "a GGUF file")
    settings = _settings(
        slots=slots,
        context_tokens=context_tokens,
        gpu_layers=gpu_layers,
        split_mode=split_mode,
        kv_type_k=kv_type_k,
        kv_type_v=kv_type_v,
    )
    need, facts = estimate(file, settings), read_facts(file)
    _, gpus = _look("auto")
    rungs = ladder(facts, settings, gpus)
    if as_json:
        print_json(
            {"need": asdict(need) | {"total": need.total}, "gpus": [asdict(gpu) for gpu in gpus]}
            | {"plan": asdict(rungs[0]), "then": [asdict(rung) for rung in rungs[1:]]}
        )
        return
    _print_need(need)
    _print_plan(rungs, gpus)


def _look(variant: str) -> "tuple[BackendChoice, tuple[Gpu, ...]]":
    """Load what a worker would load, quietly, and ask llama.cpp for the GPUs."""
    from deltaic.engine.native.backends import load_backends
    from deltaic.engine.placement.gpus import LlamaGpus
    from deltaic.engine.worker.native_log import NativeLog

    log = NativeLog()
    log.install()
    found = load_backends(variant), LlamaGpus().gpus()
    log.remove()
    return found


def _settings(**values: object) -> "EngineSettings":
    """Raises InvalidArgument, in one line."""
    from pydantic import ValidationError

    from deltaic.engine.settings import EngineSettings
    from deltaic.errors import InvalidArgument

    try:
        return EngineSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[-1]  # of "auto or a number", what is wrong with the number
        where = str(first["loc"][0]).replace("_", "-") if first["loc"] else ""
        text = first["msg"].removeprefix("Value error, ")
        raise InvalidArgument(f"--{where}: {text}" if where else text, hint="see deltaic engine plan --help") from None


def _print_gpus(gpus: "tuple[Gpu, ...]") -> None:
    if not gpus:
        print_line("GPUs      none that this build can use")
        return
    rows = ((str(gpu.index), gpu.name, f"{gpu.free:,}", f"{gpu.total:,}") for gpu in gpus)
    print_rows(("gpu", "name", "free", "memory"), rows, right=_NUMBERS)


def _print_need(need: "MemoryNeed") -> None:
    parts = (("weights", need.weights), ("keys and values", need.kv), ("a step", need.compute), ("in all", need.total))
    print_rows(("for", "bytes"), ((name, f"{size:,}") for name, size in parts), right=_NUMBERS)
    print_line("")


def _print_plan(rungs: "tuple[Plan, ...]", gpus: "tuple[Gpu, ...]") -> None:
    first = rungs[0]
    for line in first.why:
        print_line(line, "bold")
    if first.gpu_layers:
        print_line(f"split mode {first.split_mode}, tensor split {','.join(map(str, first.tensor_split))}")
        rows = ((gpu.name, f"{used:,}", f"{gpu.free:,}") for gpu, used in zip(gpus, first.used, strict=True))
        print_rows(("gpu", "planned", "free"), rows, right=_NUMBERS)
        print_line(f"then, if memory runs out: {', '.join(str(rung.gpu_layers) for rung in rungs[1:])} layers")
    print_line(f"in the host's memory: {first.host.total:,} bytes")
