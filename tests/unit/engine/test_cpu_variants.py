"""Which CPU code is chosen: the best that is proven, never one that cannot run; a name that is no use is refused."""

from pathlib import Path

import pytest

from deltaic.engine.errors import CpuCodeUnusable
from deltaic.engine.native.evidence import Evidence
from deltaic.engine.native.variants import Proof, Score, choose, variant_name

OLD, NEW, NEWEST = (Path(f"bin/libggml-cpu-{name}.so") for name in ("haswell", "zen4", "sapphirerapids"))
SCORES = {OLD: Score(64), NEW: Score(1984), NEWEST: Score(4000)}


def sound(path: Path) -> Proof:
    return Proof(("AVX2",), ("CPU",))


def test_the_best_is_taken_when_it_is_proven() -> None:
    assert choose(SCORES, sound).name == "sapphirerapids"


def test_code_that_dies_in_its_test_is_passed_over_and_named() -> None:
    def prove(path: Path) -> Proof:
        return Proof(error="it was ended by SIGILL") if path == NEWEST else sound(path)

    choice = choose(SCORES, prove)
    assert choice.name == "zen4"
    assert "sapphirerapids was passed over: it was ended by SIGILL" in choice.why


def test_code_that_cannot_run_is_not_even_tried() -> None:
    tried: list[Path] = []
    choose(SCORES | {NEWEST: Score(0)}, lambda path: tried.append(path) or sound(path))
    assert tried == [NEW]


def test_when_nothing_runs_the_error_says_what_became_of_each() -> None:
    with pytest.raises(CpuCodeUnusable, match=r"haswell was passed over: no.*GGML_NATIVE=ON"):
        choose(SCORES, lambda path: Proof(error="no"))


def test_the_one_that_is_asked_for_is_taken() -> None:
    assert choose(SCORES, sound, "haswell").path == OLD


@pytest.mark.parametrize(
    ("wanted", "scores", "proof", "says"),
    [
        ("pentium", SCORES, Proof(), "no CPU code named 'pentium'.*auto, sapphirerapids, zen4, haswell"),
        ("zen4", SCORES | {NEW: Score(0)}, Proof(), "zen4 cannot run here.*not for this machine, zen4"),
        ("zen4", SCORES, Proof(error="it computes wrongly"), "zen4 failed its test: it computes wrongly"),
    ],
)
def test_what_is_asked_for_and_unusable_is_refused(
    wanted: str, scores: dict[Path, Score], proof: Proof, says: str
) -> None:
    with pytest.raises(CpuCodeUnusable, match=says):
        choose(scores, lambda path: proof, wanted)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("libggml-cpu-zen4.so", "zen4"),
        ("libggml-cpu-armv8.2_1.so", "armv8.2_1"),
        ("libggml-cpu-apple_m1.dylib", "apple_m1"),
        ("libggml-cuda.so", ""),
    ],
)
def test_a_variant_is_called_by_what_its_file_is_for(file: str, name: str) -> None:
    assert variant_name(Path(file)) == name


def test_what_was_found_out_is_kept_for_the_next_process(tmp_path: Path) -> None:
    first = Evidence(tmp_path / "cpu" / "key.json")
    first.keep_scores(SCORES)
    first.keep_proof(NEW, sound(NEW))
    second = Evidence(tmp_path / "cpu" / "key.json")
    assert second.scores([OLD, NEW, NEWEST]) == SCORES
    assert second.proof(NEW) == sound(NEW)
    assert second.proof(OLD) is None


def test_a_test_that_was_only_too_slow_is_tried_again(tmp_path: Path) -> None:
    kept = Evidence(tmp_path / "key.json")
    kept.keep_proof(NEW, Proof(error="its test did not end in time"))
    assert Evidence(tmp_path / "key.json").proof(NEW) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"scores": 1}', '{"scores": {"libggml-cpu-zen4.so": {}}}'])
def test_a_damaged_record_is_found_out_again(tmp_path: Path, content: str) -> None:
    (tmp_path / "key.json").write_text(content)
    damaged = Evidence(tmp_path / "key.json")
    assert damaged.scores([NEW]) is None
    assert damaged.proof(NEW) is None
    damaged.keep_proof(NEW, sound(NEW))
    assert Evidence(tmp_path / "key.json").proof(NEW) == sound(NEW)


def test_a_changed_library_is_asked_again(tmp_path: Path) -> None:
    library = tmp_path / "libggml-cpu-zen4.so"
    library.write_bytes(b"one")
    Evidence.of([library], {"DELTAIC_CACHE": str(tmp_path)}).keep_proof(library, sound(library))
    assert Evidence.of([library], {"DELTAIC_CACHE": str(tmp_path)}).proof(library) == sound(library)
    library.write_bytes(b"another")
    assert Evidence.of([library], {"DELTAIC_CACHE": str(tmp_path)}).proof(library) is None


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "cpu").write_text("a file where a folder should be")
    library = tmp_path / "libggml-cpu-zen4.so"
    library.touch()
    Evidence.of([library], {"DELTAIC_CACHE": str(tmp_path)}).keep_proof(library, sound(library))
    assert Evidence.of([library], {"DELTAIC_CACHE": str(tmp_path)}).proof(library) is None
