"""The Makefile and its shell scripts: they say what they do, and fail when they should."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TARGETS = re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)


def _run(*command, cwd=ROOT, **environ):
    # MAKEFLAGS of an outer make would change what an inner one prints.
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))} | environ
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_help_is_the_default_and_lists_every_target_with_a_line():
    listed = dict(re.findall(r"^  (\S+)\s+(\S.*)$", _run("make").stdout, re.MULTILINE))
    assert set(listed) == set(TARGETS)
    assert len(TARGETS) == len(set(TARGETS)) >= 14


def test_the_build_machine_runs_exactly_the_tests_that_people_run():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert lines[-1] == "exec make test"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_every_script_is_named_in_the_readme_of_its_folder():
    scripts = {path.name for path in (ROOT / "tools").iterdir() if path.suffix in {".sh", ".py"}}
    assert set(re.findall(r"^\| `(\S+)` \|", (ROOT / "tools" / "README.md").read_text(), re.MULTILINE)) == scripts


@pytest.mark.parametrize("script", ["setup.sh", "generate_proto.sh", "step.sh", "lock.sh"])
def test_every_shell_script_explains_itself(script):
    done = _run(f"tools/{script}", "--help")
    assert done.returncode == 0
    assert f"tools/{script}" in done.stdout


def test_a_step_that_passes_is_one_line():
    done = _run("tools/step.sh", "the step", "sh", "-c", "echo noise")
    assert done.returncode == 0
    assert re.fullmatch(r"    the step +ok  \d+\.\d s\n", done.stdout)


def test_a_step_that_fails_shows_everything_and_keeps_the_status():
    done = _run("tools/step.sh", "the step", "sh", "-c", "echo why; echo because >&2; exit 7")
    assert done.returncode == 7
    assert re.fullmatch(r"    the step +FAILED\nwhy\nbecause\n", done.stdout)


def _with_only(folder, *programs):
    for program in programs:
        (folder / program).symlink_to(shutil.which(program))
    return str(folder)


def test_setup_says_what_to_install_when_the_machine_lacks_it(tmp_path):
    path = _with_only(tmp_path, "bash", "env", "dirname")
    done = _run("tools/setup.sh", PATH=path, PYTHON="python3.11")
    assert done.returncode == 1
    assert "sudo apt-get install -y python3.11 python3.11-venv g++ cmake" in done.stderr


def test_setup_asks_only_for_what_is_missing(tmp_path):
    path = _with_only(tmp_path, "bash", "env", "dirname", "g++")
    done = _run("tools/setup.sh", PATH=path, PYTHON=str(ROOT / ".venv" / "bin" / "python"))
    assert done.returncode == 1
    assert done.stderr.endswith("sudo apt-get install -y cmake\n")


def test_setup_refuses_a_python_that_is_too_old(tmp_path):
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = _run("tools/setup.sh", PYTHON=str(old))
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr


@pytest.fixture
def contracts(tmp_path):
    """A copy of what proto-check reads."""
    for name in ("proto", "deltaic/v1", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    return tmp_path


def test_generated_code_that_is_up_to_date_passes(contracts):
    done = _run("tools/generate_proto.sh", "--check", cwd=contracts)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("change", ["edited", "removed", "added"])
def test_generated_code_that_drifted_is_found(contracts, change):
    generated = contracts / "deltaic" / "v1" / "audit_pb2.pyi"
    match change:
        case "edited":
            generated.write_text(generated.read_text() + "\nX: int\n")
        case "removed":
            generated.unlink()
        case "added":
            (contracts / "deltaic" / "v1" / "old_pb2.py").write_text("")
    done = _run("tools/generate_proto.sh", "--check", cwd=contracts)
    assert done.returncode == 1
    assert "run 'make proto' and commit the result" in done.stderr


def test_generating_mends_drift(contracts):
    generated = contracts / "deltaic" / "v1" / "audit_pb2.pyi"
    (contracts / "deltaic" / "v1" / "old_pb2.py").write_text("")
    generated.write_text("")
    assert _run("tools/generate_proto.sh", cwd=contracts).returncode == 0
    assert _run("tools/generate_proto.sh", "--check", cwd=contracts).returncode == 0


def test_the_committed_baseline_accepts_the_contracts_and_would_refuse_a_broken_one(contracts):
    against = ("--against", str(ROOT / "proto" / "baseline.binpb"))
    buf = str(ROOT / ".venv" / "bin" / "buf")
    assert _run(buf, "breaking", "proto", *against, cwd=contracts).returncode == 0
    audit = contracts / "proto" / "deltaic" / "v1" / "audit.proto"
    audit.write_text(audit.read_text().replace("string actor = 3;", "bytes actor = 3;"))
    broken = _run(buf, "breaking", "proto", *against, cwd=contracts)
    assert broken.returncode != 0
    assert "actor" in broken.stdout


def test_constraints_name_versions_and_nothing_of_a_machine():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines[0].startswith("#")
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._!+-]+", line) for line in lines[1:])
    assert any(line.startswith("llama_cpp_python==") for line in lines)
