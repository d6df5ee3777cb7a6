"""States of prompts from one life of a worker to the next: found again, never taken from strangers."""

from pathlib import Path

import pytest
from engine_asking import KEY, REVISION, answer, ask

from deltaic.engine.host import ModelHost
from deltaic.engine.settings import EngineSettings
from deltaic.engine.worker.prefix_files import KnownPrefix, PrefixFiles

PROMPT = "Tell me about the branches of a bank and what they do. " * 10


def test_what_was_saved_is_taken_once_by_the_same_fingerprint_alone(tmp_path: Path) -> None:
    known = [KnownPrefix("a", (1, 2, 3), bytearray(b"state" * 100)), KnownPrefix("", (4,), bytearray(b"x" * 600))]
    files = PrefixFiles(tmp_path, "one")
    assert files.save(known, 2000) == 2
    assert list(PrefixFiles(tmp_path, "other").take(5000)) == []
    assert list(PrefixFiles(tmp_path, "one").take(5000)) == known
    assert list(PrefixFiles(tmp_path, "one").take(5000)) == []


def test_what_does_not_bear_the_seal_is_removed_unread(tmp_path: Path) -> None:
    files = PrefixFiles(tmp_path, "one")
    files.save([KnownPrefix("a", (1,), bytearray(b"state"))], 2000)
    (path,) = tmp_path.glob("*/*.state")
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    assert list(files.take(5000)) == []
    assert not path.exists()


def test_the_budget_bounds_what_is_written_and_what_is_read(tmp_path: Path) -> None:
    files = PrefixFiles(tmp_path, "one")
    many = [KnownPrefix("a", (number,), bytearray(1000)) for number in range(9)]
    assert files.save(many, 4500) == 4
    assert len(list(files.take(2500))) == 2


@pytest.mark.model
async def test_a_worker_that_is_started_again_knows_the_prompts_of_the_last(
    tmp_path: Path, demo_model_path: Path
) -> None:
    settings = EngineSettings(slots=2, context_tokens=512, threads=1, prefix_dir=str(tmp_path / "prefixes"))
    cached, texts = [], []
    for life in range(2):
        host = ModelHost(tmp_path / f"run{life}", settings, "edge@test", "edge")
        await host.serve(KEY, REVISION, demo_model_path)
        text, completion = await answer(host, ask(PROMPT, max_tokens=8, tenant="a"))
        _, stranger = await answer(host, ask(PROMPT, max_tokens=1, tenant="b"))
        await host.close()
        cached.append(completion.usage.cached_tokens)
        texts.append(text)
        if life:
            break
        assert stranger.usage.cached_tokens == 0
    assert cached[0] == 0
    assert cached[1] > 100
    assert texts[0] == texts[1]
