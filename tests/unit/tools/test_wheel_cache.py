"""The wheel cache: one build for each key, whole or not at all."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import wheel_cache

ROOT = Path(__file__).resolve().parents[3]
KEY = wheel_cache.wheel_key("0.3.36", wheel_cache.PORTABLE, "cp311", "x86_64")


def _builder(builds, name="engine-1-py3-none-any.whl"):
    def build(into):
        builds.append(into)
        (into / name).write_bytes(b"wheel")

    return build


def test_the_version_is_the_one_that_the_project_pins():
    assert f'"llama-cpp-python=={wheel_cache.pinned_version()}"' in (ROOT / "pyproject.toml").read_text()


def test_a_version_that_is_not_pinned_is_refused(tmp_path):
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\ndependencies = ["llama-cpp-python>=0.3"]\n')
    with pytest.raises(SystemExit, match="does not pin"):
        wheel_cache.pinned_version(project)


def test_the_build_is_portable():
    assert "-DGGML_NATIVE=OFF" in wheel_cache.PORTABLE.split()
    assert "-DGGML_NATIVE=OFF" in wheel_cache.BASELINE.split()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_compiler_that_knows_the_newest_processors_builds_code_for_all(machine):
    assert wheel_cache.portable_flags(machine, lambda options: True) == wheel_cache.PORTABLE


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_an_older_compiler_builds_the_code_that_runs_anywhere(machine, capfd):
    assert wheel_cache.portable_flags(machine, lambda options: False) == wheel_cache.BASELINE
    assert "does not know" in capfd.readouterr().err


def test_another_kind_of_machine_gets_the_code_that_runs_anywhere():
    assert wheel_cache.portable_flags("loongarch64", pytest.fail) == wheel_cache.BASELINE


def test_the_compiler_is_asked():
    assert wheel_cache.compiler_accepts("-O2")
    assert not wheel_cache.compiler_accepts("-march=no-such-processor")


def test_a_compiler_that_is_not_there_accepts_nothing(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not wheel_cache.compiler_accepts("-O2")


@pytest.mark.parametrize(
    "other",
    [
        ("0.3.37", wheel_cache.PORTABLE, "cp311", "x86_64"),
        ("0.3.36", "-DGGML_NATIVE=ON", "cp311", "x86_64"),
        ("0.3.36", wheel_cache.PORTABLE, "cp312", "x86_64"),
        ("0.3.36", wheel_cache.PORTABLE, "cp311", "aarch64"),
    ],
)
def test_another_version_flag_python_or_machine_has_another_key(other):
    assert wheel_cache.wheel_key(*other) != KEY


def test_spaces_between_flags_do_not_make_another_key():
    assert wheel_cache.wheel_key("0.3.36", f" {wheel_cache.PORTABLE.replace(' ', '  ')}", "cp311", "x86_64") == KEY


def test_the_second_time_nothing_is_built(tmp_path):
    builds = []
    first = wheel_cache.obtain(tmp_path, KEY, _builder(builds))
    second = wheel_cache.obtain(tmp_path, KEY, _builder(builds))
    assert first == second == tmp_path / KEY / "engine-1-py3-none-any.whl"
    assert len(builds) == 1


def test_two_that_ask_at_once_build_once(tmp_path):
    builds, started = [], threading.Barrier(2)

    def ask():
        started.wait(10)
        return wheel_cache.obtain(tmp_path, KEY, _builder(builds))

    with ThreadPoolExecutor(2) as pool:
        paths = {future.result() for future in [pool.submit(ask), pool.submit(ask)]}
    assert len(paths) == len(builds) == 1


def test_a_build_that_fails_leaves_no_wheel_and_the_next_one_may_succeed(tmp_path):
    def fail(into):
        (into / "half.o").write_bytes(b"")
        raise wheel_cache.BuildFailed("no compiler")

    with pytest.raises(wheel_cache.BuildFailed):
        wheel_cache.obtain(tmp_path, KEY, fail)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    assert wheel_cache.obtain(tmp_path, KEY, _builder([])).is_file()


def test_a_build_without_a_wheel_has_failed(tmp_path):
    with pytest.raises(wheel_cache.BuildFailed, match="without a wheel"):
        wheel_cache.obtain(tmp_path, KEY, lambda into: None)


def test_what_a_killed_build_left_behind_is_not_taken(tmp_path):
    half = tmp_path / f"{KEY}.building"
    half.mkdir()
    (half / "half.whl").write_bytes(b"half")
    wheel = wheel_cache.obtain(tmp_path, KEY, _builder([]))
    assert wheel.name == "engine-1-py3-none-any.whl"
    assert not half.exists()


def test_a_failing_pip_is_reported_with_the_end_of_its_log(tmp_path, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho cannot find the compiler\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    log = tmp_path / "log"
    with pytest.raises(wheel_cache.BuildFailed, match=f"cannot find the compiler\n.*{log}"):
        wheel_cache.build_wheel("0.3.36", wheel_cache.PORTABLE, tmp_path, log)


def test_pip_is_told_the_flags_and_kept_from_its_own_cache(tmp_path, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\necho "$CMAKE_ARGS" "$@" >{tmp_path}/called\n')
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    wheel_cache.build_wheel("0.3.36", wheel_cache.PORTABLE, tmp_path, tmp_path / "log")
    called = (tmp_path / "called").read_text()
    assert called.startswith(f"{wheel_cache.PORTABLE} -m pip wheel")
    assert {"--no-cache-dir", "--no-binary", "llama-cpp-python==0.3.36"} <= set(called.split())


def test_the_command_prints_the_path_and_nothing_else(tmp_path):
    listed = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, platform; print(f'cp{sys.version_info[0]}{sys.version_info[1]}', platform.machine())",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    wheel = tmp_path / wheel_cache.wheel_key(wheel_cache.pinned_version(), "-DX=1", *listed) / "engine.whl"
    wheel.parent.mkdir()
    wheel.write_bytes(b"wheel")
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "wheel_cache.py", "--cache", tmp_path],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"DELTAIC_CMAKE_ARGS": "-DX=1"},
    )
    assert done.stdout == f"{wheel}\n"
    assert done.stderr == ""
