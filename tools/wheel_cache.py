#!/usr/bin/env python3
"""Print the path of a portable llama-cpp-python wheel, building it first if this machine has none.

PyPI has no wheel of it, and its default build (GGML_NATIVE=ON) crashes on machines whose CPU announces more than the
kernel grants. The build made here carries the CPU code several times, for older and newer processors, and a worker
chooses when it starts; where the compiler does not know the newest of them, or the machine is of another kind, there is
one CPU code that runs anywhere. pip's own wheel cache does not know the build flags, so it is bypassed: wheels are kept
by a key of version, flags, Python and machine. The version comes from pyproject.toml. DELTAIC_CMAKE_ARGS replaces the
flags, for example to build for a GPU: docs/engine-build.md.

The path goes to stdout, progress to stderr. A build takes 3 to 15 minutes, finding a built wheel takes no time.
"""

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from cache_folder import cache_folder, exclusive, place

BASELINE = "-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF"
PORTABLE = f"{BASELINE} -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON"
# What a compiler must know to build every variant for a machine; GCC 11 and GCC 14 do, and Clang of these years.
_NEWEST_CODE = {"x86_64": "-mamx-int8 -mavxvnni -mavx512bf16", "aarch64": "-march=armv9.2-a+sve2+sme"}
_PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
_HEARTBEAT_SECONDS = 20
_STEP = re.compile(r"\[(\d+)/(\d+)\]")


class BuildFailed(Exception):
    """The compiler or pip gave up; the message ends with the path of the log."""


def pinned_version(project: Path = _PROJECT) -> str:
    """The version of llama-cpp-python that pyproject.toml asks for."""
    for requirement in tomllib.loads(project.read_text())["project"]["dependencies"]:
        if match := re.fullmatch(r"llama-cpp-python==([\w.]+)", requirement):
            return match[1]
    raise SystemExit(f"{project} does not pin llama-cpp-python to one version")


def portable_flags(machine: str, compiles: Callable[[str], bool]) -> str:
    """Every CPU variant of the machine's kind if the compiler can build all of them, else the one that runs anywhere.

    `compiles` says whether the compiler accepts an option; llama.cpp's build would fail at the first that it does not.
    """
    options = _NEWEST_CODE.get(machine)
    if options is None:
        return BASELINE
    if compiles(options):
        return PORTABLE
    _say(f"the compiler does not know {options}: building one CPU code, slower on new processors; see CXX")
    return BASELINE


def compiler_accepts(options: str) -> bool:
    """Whether $CXX, or c++, compiles an empty program with these options."""
    command = [*os.environ.get("CXX", "c++").split(), *options.split(), "-x", "c++", "-c", "-o", os.devnull, "-"]
    try:
        return subprocess.run(command, input=b"", capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def wheel_key(version: str, cmake_args: str, python_tag: str, machine: str) -> str:
    """The name of the folder that holds the wheel: readable where it can be, a digest of the flags where not."""
    flags = hashlib.sha256(" ".join(cmake_args.split()).encode()).hexdigest()[:12]
    return f"llama_cpp_python-{version}-{python_tag}-{machine}-{flags}"


def obtain(folder: Path, key: str, build: Callable[[Path], None]) -> Path:
    """The wheel in `folder/key`; `build` puts one into the empty folder that it is given when there is none.

    Two processes that ask at once build once. What a killed build left behind is removed.
    """
    if wheel := _wheel_in(folder / key):
        return wheel
    with exclusive(folder / f"{key}.lock"):
        if wheel := _wheel_in(folder / key):
            return wheel
        building = folder / f"{key}.building"
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        try:
            build(building)
            if not _wheel_in(building):
                raise BuildFailed("the build ended without a wheel")
            shutil.rmtree(folder / key, ignore_errors=True)
            place(building, folder / key)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return next((folder / key).glob("*.whl"))


def _wheel_in(folder: Path) -> Path | None:
    return next(folder.glob("*.whl"), None)


def build_wheel(version: str, cmake_args: str, into: Path, log: Path) -> None:
    """Compile the source archive with pip into `into`. Raises BuildFailed."""
    command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-cache-dir"]
    command += ["--no-binary", "llama-cpp-python", "--wheel-dir", str(into), f"llama-cpp-python=={version}"]
    started = time.monotonic()
    _say(f"building version {version} with {cmake_args} (once for this machine; 3 to 15 minutes)")
    with log.open("w") as out:
        environ = os.environ | {"CMAKE_ARGS": cmake_args}
        process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            status = _wait(process, log, started)
        finally:
            if process.poll() is None:
                process.terminate()
    if status:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise BuildFailed(f"{tail}\nllama-cpp-python did not build; the whole log is {log}")
    log.unlink()
    _say(f"built in {time.monotonic() - started:.0f} s")


def _wait(process: subprocess.Popen[bytes], log: Path, started: float) -> int:
    while True:
        try:
            return process.wait(_HEARTBEAT_SECONDS)
        except subprocess.TimeoutExpired:
            steps = _STEP.findall(log.read_text(errors="replace")[-20_000:])
            how_far = f", step {steps[-1][0]} of {steps[-1][1]}" if steps else ""
            _say(f"still building, {time.monotonic() - started:.0f} s{how_far}")


def _say(text: str) -> None:
    print(f"    llama-cpp-python: {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder for wheels (default: wheels in the cache folder)")
    folder = parser.parse_args().cache or cache_folder(os.environ) / "wheels"
    version = pinned_version()
    machine = platform.machine()
    cmake_args = os.environ.get("DELTAIC_CMAKE_ARGS") or portable_flags(machine, compiler_accepts)
    key = wheel_key(version, cmake_args, f"cp{sys.version_info.major}{sys.version_info.minor}", machine)
    try:
        print(obtain(folder, key, lambda into: build_wheel(version, cmake_args, into, folder / f"{key}.log")))
    except BuildFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
