"""A plan never promises memory that is not there, uses more of it when there is more, and ends on the host."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deltaic.engine.placement.gpus import Gpu
from deltaic.engine.placement.model_facts import Block, ModelFacts
from deltaic.engine.placement.plan import Plan, ladder, make_plan
from deltaic.engine.settings import EngineSettings

MIB = 1 << 20

blocks = st.builds(
    Block, st.integers(0, 900 * MIB), st.sampled_from([0, 64, 512, 1024]), st.sampled_from([0, 64, 1024])
)
models = st.builds(
    ModelFacts,
    blocks=st.lists(blocks, max_size=24).map(tuple),
    input_bytes=st.integers(0, 500 * MIB),
    output_bytes=st.integers(0, 900 * MIB),
    state_bytes=st.sampled_from([0, 100_000]),
    vocabulary=st.integers(1, 150_000),
    embedding=st.integers(64, 8192),
    feed_forward=st.integers(0, 30_000),
    heads=st.integers(0, 64),
    head=st.just((64, 64)),
    trained_context=st.sampled_from([0, 2048, 32_768]),
)
machines = st.lists(st.integers(0, 24_000 * MIB), max_size=4).map(
    lambda frees: tuple(Gpu(index, f"gpu {index}", free, 24_000 * MIB) for index, free in enumerate(frees))
)
choices = st.builds(
    EngineSettings,
    slots=st.integers(1, 64),
    context_tokens=st.integers(64, 32_768),
    split_mode=st.sampled_from(["auto", "layer", "row", "none"]),
    kv_type_k=st.sampled_from(["f16", "q8_0", "q4_0"]),
    kv_type_v=st.sampled_from(["f16", "q8_0", "q4_0"]),
)
explicit = st.integers(-1, 40)


@given(models, choices, machines)
def test_no_gpu_is_planned_fuller_than_it_is_free(facts: ModelFacts, settings: EngineSettings, gpus) -> None:
    plan = make_plan(facts, settings, gpus)
    assert all(used <= gpu.free for used, gpu in zip(plan.used, gpus, strict=True))
    assert 0 <= plan.gpu_layers <= plan.layers == len(facts.blocks) + 1


@given(models, choices, machines, st.data())
def test_more_free_memory_never_means_fewer_layers(facts, settings, gpus, data) -> None:
    before = make_plan(facts, settings, gpus).gpu_layers
    more = tuple(replace(gpu, free=gpu.free + data.draw(st.integers(0, 8000 * MIB))) for gpu in gpus)
    assert make_plan(facts, settings, more).gpu_layers >= before


@given(models, choices, machines, st.one_of(st.just("auto"), explicit))
def test_the_ladder_goes_down_and_ends_on_the_host(facts, settings, gpus, layers) -> None:
    rungs = ladder(facts, settings.model_copy(update={"gpu_layers": layers}), gpus)
    steps = [plan.gpu_layers for plan in rungs]
    assert steps == sorted(set(steps), reverse=True)
    assert steps[-1] == 0
    assert all(plan.why for plan in rungs)


@given(models, choices, machines)
def test_every_byte_is_on_a_gpu_or_on_the_host(facts, settings, gpus) -> None:
    whole = make_plan(facts, settings.model_copy(update={"gpu_layers": 0}), gpus).host
    plan = make_plan(facts, settings, gpus)
    if plan.split_mode == "row":
        return
    on_gpus = sum(plan.used) - whole.compute * sum(1 for used in plan.used if used)
    assert plan.host.weights + plan.host.kv + on_gpus == whole.weights + whole.kv


@given(models, choices, machines)
def test_llama_puts_the_layers_where_the_plan_counts_them(facts, settings, gpus) -> None:
    plan = make_plan(facts, settings, gpus)
    if plan.split_mode == "layer" and plan.gpu_layers:
        assert _as_llama_splits(plan) == list(plan.tensor_split)


def _as_llama_splits(plan: Plan) -> list[int]:
    """llama-model.cpp, load_tensors: shares summed up in floats, each layer to the first that lies above its place."""
    sums = np.cumsum(np.array(plan.tensor_split, np.float32), dtype=np.float32)
    splits = sums / sums[-1]
    counts = [0] * len(splits)
    for layer in range(plan.gpu_layers):
        place = np.float32(layer) / np.float32(plan.gpu_layers)
        counts[int(np.searchsorted(splits, place, side="right"))] += 1
    return counts
