"""The pace: what answers and prompts take, and how many prompt tokens fit beside answers."""

import pytest

from deltaic.engine.scheduling.pace import Pace

ANSWERS = 8


def test_a_chunk_stretches_a_step_as_far_as_the_gap_allows() -> None:
    pace = Pace(gap=2.0)
    pace.observe_answers(ANSWERS, 0.040)
    pace.observe_prompts(16, 16 * 0.002)
    assert 19 <= pace.chunk(ANSWERS, 512) <= 20


def test_a_costly_prompt_is_read_token_by_token() -> None:
    pace = Pace(gap=2.0)
    pace.observe_answers(ANSWERS, 0.040)
    pace.observe_prompts(8, 8 * 0.050)
    assert pace.chunk(ANSWERS, 512) == 1


def test_one_prompt_token_tells_less_than_many() -> None:
    few, many = Pace(), Pace()
    for pace, tokens in ((few, 1), (many, 64)):
        pace.observe_prompts(64, 64 * 0.002)
        pace.observe_prompts(tokens, tokens * 0.010)
    assert 0.002 < few.prefill_seconds(1) < many.prefill_seconds(1) < 0.010


def test_answers_that_grow_while_a_prompt_is_read_leave_it_less() -> None:
    pace = Pace(gap=2.5)
    pace.observe_answers(ANSWERS, 0.040)
    pace.observe_prompts(64, 64 * 0.002)
    assert 29 <= pace.chunk(ANSWERS, 512) <= 30
    for seconds in (0.050, 0.500):
        for _ in range(50):
            pace.observe_answers(ANSWERS, seconds)
            pace.observe_prompts(64, 64 * 0.002)
        assert pace.chunk(ANSWERS, 512) == pytest.approx(1000 * max(0.100 - seconds, 0.5 * seconds) / 2, abs=1)


def test_what_is_usual_follows_answers_between_which_nothing_is_read() -> None:
    pace = Pace(gap=2.0)
    pace.observe_prompts(64, 64 * 0.002)
    for seconds in (0.040, 0.080):
        for _ in range(50):
            pace.observe_answers(ANSWERS, seconds)
        assert pace.chunk(ANSWERS, 512) == pytest.approx(1000 * seconds / 2, abs=1)


def test_as_long_as_nothing_is_known_a_chunk_is_large_enough_to_learn_from() -> None:
    pace = Pace(gap=2.0)
    pace.observe_answers(1, 0.002)
    tokens = pace.chunk(1, 512)
    pace.observe_prompts(tokens, tokens * 0.004)
    assert pace.prefill_seconds(1) == 0.004
    assert pace.chunk(1, 512) == 1


def test_the_first_prompt_of_few_tokens_tells_nothing() -> None:
    pace = Pace()
    before = pace.prefill_seconds(1)
    pace.observe_prompts(2, 0.5)
    assert pace.prefill_seconds(1) == before
