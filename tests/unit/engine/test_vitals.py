"""What a worker tells of itself: counted where it happens, read as one message."""

from deltaic.engine.worker.vitals import Backend, How, Load, Vitals


def test_a_new_worker_tells_of_nothing() -> None:
    told = Vitals().snapshot()
    assert told.steps == told.running == told.counters.generated_tokens == 0
    assert dict(told.counters.finished) == {}
    assert sum(told.times.step.counts) == 0
    assert len(told.times.step.counts) == len(told.times.step.bounds) + 1


def test_a_beat_carries_what_is_in_hand_and_the_next_may_leave_it() -> None:
    vitals = Vitals()
    vitals.beat(1.0, Load(running=3, waiting=2, parked=1, kv_tokens=700, prefix_bytes=9))
    vitals.beat(2.0)
    told = vitals.snapshot()
    assert (told.running, told.waiting, told.parked, told.kv_tokens, told.prefix_bytes) == (3, 2, 1, 700, 9)
    assert vitals.beats == 2


def test_silence_is_counted_from_the_last_beat_and_from_the_start_before_it() -> None:
    now = 100.0
    vitals = Vitals(lambda: now)
    now = 104.0
    assert vitals.silent == 4.0
    vitals.beat(103.0)
    assert vitals.silent == 1.0


def test_a_step_is_a_duration_and_a_batch() -> None:
    vitals = Vitals()
    vitals.observe_step(0.02, 9)
    vitals.observe_step(99.0, 99_999)
    told = vitals.snapshot()
    assert told.steps == 2
    assert told.times.step.sum == 99.02
    assert told.times.step.counts[-1] == told.times.batch_tokens.counts[-1] == 1
    assert told.times.batch_tokens.sum == 100_008


def test_a_value_on_a_bound_belongs_below_it() -> None:
    vitals = Vitals()
    vitals.observe_queue(0.05)
    queue = vitals.snapshot().times.queue
    assert queue.counts[list(queue.bounds).index(0.05)] == 1


def test_prompts_split_into_hits_and_misses() -> None:
    vitals = Vitals()
    vitals.count_prompt(100, cached=80)
    vitals.count_prompt(10)
    counters = vitals.snapshot().counters
    assert (counters.prompt_tokens, counters.cached_tokens) == (110, 80)
    assert (counters.prefix_hits, counters.prefix_misses) == (1, 1)


def test_requests_are_counted_by_how_they_ended() -> None:
    vitals = Vitals()
    for how in (How.STOP, How.STOP, How.DEADLINE):
        vitals.count_finished(how)
    assert dict(vitals.snapshot().counters.finished) == {"stop": 2, "deadline": 1}


def test_the_facts_of_the_start_are_in_every_message() -> None:
    vitals = Vitals()
    vitals.describe(4, 8192, Backend("haswell", ("AVX2", "FMA"), 0, 30, "no GPU"))
    told = vitals.snapshot()
    assert (told.slots, told.kv_capacity) == (4, 8192)
    assert (told.backend.cpu, list(told.backend.features), told.backend.why) == ("haswell", ["AVX2", "FMA"], "no GPU")
