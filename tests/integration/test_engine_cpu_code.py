"""Every CPU code that this machine can run chooses the same tokens; one that kills its process is no danger."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deltaic.engine.native import trials
from deltaic.engine.native.ggml import loadable_libraries
from deltaic.engine.native.variants import choose, variant_name

VARIANTS = [path for path in loadable_libraries() if variant_name(path)]
NEARLY_TIED = 0.5  # in logits: the better is at most 1.6 times as likely
GREEDY = Path(__file__).with_name("cpu_greedy.py")

pytestmark = pytest.mark.skipif(not VARIANTS, reason="this build has its CPU code built in")


@pytest.fixture(scope="module")
def able() -> list[Path]:
    """The variants that say they can run here."""
    scores = trials.score_all(VARIANTS)
    return [path for path in VARIANTS if scores[path].value > 0]


def decode(model: Path, variant: str, settings: str = "{}", **environ: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(GREEDY), str(model), variant, settings]
    return subprocess.run(command, check=False, env=os.environ | environ, capture_output=True, text=True, timeout=100)


def test_every_variant_that_says_so_is_proven_to_run(able: list[Path]) -> None:
    assert able
    for path in able:
        proof = trials.prove(path)
        assert not proof.error, path.name
        assert "CPU" in proof.buffers


@pytest.mark.model
@pytest.mark.timeout(400)
def test_all_of_them_choose_the_same_tokens_unless_two_are_nearly_tied(able: list[Path], demo_model_path: Path) -> None:
    """Each adds up in another order and rounds inputs to other widths: a token may turn where the next was as good."""
    answers = {}
    for path in able:
        run = decode(demo_model_path, variant_name(path))
        assert run.returncode == 0, run.stderr
        answer = json.loads(run.stdout)
        assert answer["cpu"] == variant_name(path)
        answers[answer["cpu"]] = answer
    plainest = answers.pop("x64", None) or answers.popitem()[1]
    for name, answer in answers.items():
        pairs = enumerate(zip(plainest["tokens"], answer["tokens"], strict=True))
        turned = next((place for place, (one, other) in pairs if one != other), None)
        assert turned is None or max(plainest["gaps"][turned], answer["gaps"][turned]) < NEARLY_TIED, (name, answer)


@pytest.mark.model
def test_the_environment_names_the_code_where_settings_do_not(able: list[Path], demo_model_path: Path) -> None:
    wanted = variant_name(able[0])
    run = decode(demo_model_path, "auto", DELTAIC_CPU_VARIANT=wanted)
    assert json.loads(run.stdout)["cpu"] == wanted


@pytest.mark.model
@pytest.mark.parametrize("kinds", [("q8_0", "q8_0"), ("q4_0", "f16"), ("f16", "q4_0")])
def test_keys_and_values_of_every_type_decode(kinds: tuple[str, str], demo_model_path: Path) -> None:
    run = decode(demo_model_path, "auto", json.dumps({"kv_type_k": kinds[0], "kv_type_v": kinds[1]}))
    assert run.returncode == 0, run.stderr
    assert len(json.loads(run.stdout)["tokens"]) == 12


@pytest.mark.model
def test_a_name_that_the_build_does_not_have_is_refused(demo_model_path: Path) -> None:
    run = decode(demo_model_path, "pentium")
    assert "no CPU code named 'pentium'; it has auto, " in run.stderr


def library(source: str, folder: Path) -> Path:
    """A real library that answers ggml's question for its score, and more."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    code, made = folder / "code.c", folder / "libggml-cpu-made.so"
    code.write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, code], check=True)
    return made


DIES_WHEN_ASKED = "int ggml_backend_score(void) { __builtin_trap(); }"
DIES_WHEN_OPENED = "__attribute__((constructor)) static void open(void) { __builtin_trap(); } int x;"
DIES_AT_WORK = "int ggml_backend_score(void) { return 1 << 20; } void *ggml_backend_init(void) { __builtin_trap(); }"


@pytest.mark.parametrize("source", [DIES_WHEN_ASKED, DIES_WHEN_OPENED, DIES_AT_WORK])
def test_a_library_that_kills_its_process_is_passed_over(source: str, tmp_path: Path, able: list[Path]) -> None:
    made = library(source, tmp_path)
    scores = trials.score_all([made, *VARIANTS])
    assert set(scores) == {made, *VARIANTS}
    choice = choose(scores, trials.prove)
    assert choice.path in able
    if scores[made].value:
        assert "made was passed over: it was ended by SIG" in choice.why
    else:
        assert scores[made].error.startswith("it was ended by SIG")


@pytest.mark.parametrize("source", ["int x;", ""])
def test_a_library_that_is_no_backend_scores_nothing(source: str, tmp_path: Path) -> None:
    made = library(source, tmp_path)
    assert trials.score_all([made])[made].value == 0


def test_a_file_that_is_no_library_scores_nothing(tmp_path: Path) -> None:
    made = tmp_path / "libggml-cpu-made.so"
    made.write_bytes(b"not a library")
    assert trials.score_all([made])[made].value == 0


@pytest.fixture
def info() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "cli", "engine", *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    return run


def test_the_command_says_what_computes_here(info, able: list[Path]) -> None:
    shown = json.loads(info("info", "--json").stdout)
    assert shown["cpu"] in {variant_name(path) for path in able}
    assert shown["features"]
    assert "proven" in shown["why"]


def test_the_command_plans_and_refuses_in_one_line(info, tiny_gguf) -> None:
    path = str(tiny_gguf())
    shown = json.loads(info("plan", path, "--json").stdout)
    assert shown["need"]["total"] == sum(shown["need"][part] for part in ("weights", "kv", "compute"))
    assert shown["plan"]["gpu_layers"] == 0
    for arguments in ((path, "--gpu-layers", "-2"), (path, "--split-mode", "x"), ("missing.gguf",)):
        refused = info("plan", *arguments)
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1
