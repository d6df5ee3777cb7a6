"""A model that finds no room on the GPU is tried with fewer layers and ends on the host, and says so."""

from pathlib import Path

import pytest

from deltaic.engine.errors import PlacementRefused, WorkerFailed
from deltaic.engine.placement.gpus import Gpu, NvmlGpus
from deltaic.engine.placement.memory import estimate
from deltaic.engine.placement.model_facts import read_facts
from deltaic.engine.placement.plan import make_plan
from deltaic.engine.settings import EngineSettings
from deltaic.engine.worker.model import Model
from deltaic.engine.worker.native_log import NativeLog
from deltaic.engine.worker.placing import load_placed

pytestmark = pytest.mark.model

MIB = 1 << 20
SETTINGS = EngineSettings(slots=1, context_tokens=256, threads=1)


class Known:
    """GPUs that somebody has told of."""

    def __init__(self, *frees: int) -> None:
        self._gpus = tuple(Gpu(index, f"gpu {index}", free, free) for index, free in enumerate(frees))

    def gpus(self) -> tuple[Gpu, ...]:
        return self._gpus


@pytest.fixture
def log() -> NativeLog:
    log = NativeLog()
    log.install()
    return log


def test_fewer_layers_are_tried_until_there_is_room(demo_model_path: Path, log: NativeLog) -> None:
    opened: list[Model] = []

    def open_context(model: Model) -> str:
        opened.append(model)
        if len(opened) < 3:
            raise WorkerFailed("no room")
        return "a context"

    model, context, placed = load_placed(demo_model_path, SETTINGS, log, open_context, Known(4000 * MIB))
    assert context == "a context"
    assert [one.pointer is None for one in opened] == [True, True, False]
    assert placed.plan.gpu_layers == 31 * 2 // 4
    assert placed.plan.why[0] == "23 layers on GPUs found no room"
    assert "23 layers on GPUs found no room" in placed.why
    model.close()


def test_when_the_host_has_no_room_either_the_worker_fails(demo_model_path: Path, log: NativeLog) -> None:
    tries: list[Model] = []

    def open_context(model: Model) -> str:
        tries.append(model)
        raise WorkerFailed("no room")

    with pytest.raises(WorkerFailed, match="no room"):
        load_placed(demo_model_path, SETTINGS, log, open_context, Known(4000 * MIB))
    assert len(tries) == 5
    assert all(model.pointer is None for model in tries)


def test_layers_asked_for_without_a_gpu_stay_on_the_host_and_say_why(demo_model_path: Path) -> None:
    plan = make_plan(read_facts(demo_model_path), EngineSettings(gpu_layers=-1), ())
    assert plan.gpu_layers == 0
    assert plan.why == ("no layer on a GPU: gpu_layers -1 was asked for, and there is no GPU here",)


def test_a_gpu_that_is_not_there_is_refused(demo_model_path: Path) -> None:
    settings = EngineSettings(split_mode="none", main_gpu=2)
    with pytest.raises(PlacementRefused, match="main_gpu is 2 and there are 1 GPUs"):
        make_plan(read_facts(demo_model_path), settings, Known(4000 * MIB).gpus())


def test_the_whole_model_goes_to_one_gpu_that_has_the_room(demo_model_path: Path) -> None:
    plan = make_plan(read_facts(demo_model_path), SETTINGS, Known(100 * MIB, 4000 * MIB, 3000 * MIB).gpus())
    assert (plan.gpu_layers, plan.split_mode, plan.main_gpu) == (31, "none", 1)


def test_layers_are_spread_evenly_where_no_gpu_takes_all(demo_model_path: Path) -> None:
    settings = EngineSettings(slots=8, context_tokens=8192)
    plan = make_plan(read_facts(demo_model_path), settings, Known(1500 * MIB, 1500 * MIB).gpus())
    assert plan.split_mode == "layer"
    assert plan.gpu_layers == sum(plan.tensor_split) == 31
    assert abs(plan.tensor_split[0] - plan.tensor_split[1]) <= 2


def test_a_head_that_is_not_made_of_blocks_is_refused_for_quantised_keys(demo_model_path: Path) -> None:
    from dataclasses import replace

    facts = replace(read_facts(demo_model_path), head=(80, 80))
    with pytest.raises(PlacementRefused, match="a head has 80 elements, not a multiple of 32"):
        make_plan(facts, EngineSettings(kv_type_k="q8_0"), ())


@pytest.mark.parametrize(("kind", "mib"), [("f16", 180.0), ("q8_0", 95.625), ("q4_0", 50.625)])
def test_keys_and_values_are_estimated_as_llama_allocates_them(kind: str, mib: float, demo_model_path: Path) -> None:
    """llama.cpp logs these sizes of its buffers for four slots of 2,048 tokens."""
    settings = EngineSettings.model_validate({"kv_type_k": kind, "kv_type_v": kind})
    assert estimate(demo_model_path, settings).kv == mib * MIB


def test_without_nvidias_library_or_driver_there_are_no_gpus() -> None:
    assert NvmlGpus({"CUDA_VISIBLE_DEVICES": ""}).gpus() == ()
