"""The pace: what a step takes, and how many prompt tokens fit beside answers."""

from deltaic.engine.scheduling.pace import Pace

ANSWERS = 8


def test_a_chunk_stretches_a_step_as_far_as_the_gap_allows() -> None:
    pace = Pace(gap=2.0)
    pace.observe(ANSWERS, 0, 0.040)
    pace.observe(ANSWERS, 16, 0.040 + 16 * 0.002)
    assert 19 <= pace.chunk(ANSWERS, 512) <= 20


def test_a_costly_prompt_is_read_token_by_token() -> None:
    pace = Pace(gap=2.0)
    pace.observe(ANSWERS, 0, 0.040)
    pace.observe(ANSWERS, 8, 0.040 + 8 * 0.030)
    assert pace.chunk(ANSWERS, 512) == 1


def test_one_prompt_token_tells_less_than_many() -> None:
    few, many = Pace(), Pace()
    for pace, tokens in ((few, 1), (many, 64)):
        pace.observe(ANSWERS, 0, 0.040)
        pace.observe(ANSWERS, 64, 0.040 + 64 * 0.002)
        pace.observe(ANSWERS, tokens, 0.040 + tokens * 0.010)
    assert 0.002 < few.prefill_seconds(1) < many.prefill_seconds(1) < 0.010


def test_after_many_steps_with_prompts_one_without_is_due() -> None:
    pace = Pace()
    pace.observe(ANSWERS, 0, 0.040)
    for _ in range(16):
        assert not pace.blind
        pace.observe(ANSWERS, 4, 0.060)
    assert pace.blind
    pace.observe(ANSWERS, 0, 0.050)
    assert not pace.blind


def test_the_first_prompt_of_few_tokens_tells_nothing() -> None:
    pace = Pace()
    before = pace.prefill_seconds(1)
    pace.observe(0, 2, 0.5)
    assert pace.prefill_seconds(1) == before
