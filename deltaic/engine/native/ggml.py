"""The part of ggml's registry that chooses what computes, through ctypes.

Everything is reached through libllama: its symbols resolve to the very libggml that llama.cpp uses. Opening libggml by
its own file could load a second copy, since a wheel holds copies where a system has links; what is registered in one
copy does not exist in the other.
"""

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deltaic.engine.errors import CpuCodeUnusable

_SUFFIXES = (".dylib", ".so") if sys.platform == "darwin" else (".so",)
_GPU, _INTEGRATED_GPU = 1, 2


class _Feature(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_char_p))


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU as llama.cpp counts it: `index` is its place in tensor splits. Memory in bytes."""

    index: int
    name: str
    description: str
    free: int
    total: int


def wheel_folders() -> tuple[Path, ...]:
    """Where the wheel has its libraries: beside the package, and where a build with loadable backends installs them.

    Raises CpuCodeUnusable when llama-cpp-python is not installed.
    """
    found = find_spec("llama_cpp")
    if found is None or not found.submodule_search_locations:
        raise CpuCodeUnusable("llama-cpp-python is not installed", hint="make setup")
    package = Path(found.submodule_search_locations[0])
    return package / "lib", package.parent / "bin"


def loadable_libraries() -> tuple[Path, ...]:
    """Backends of the wheel that are files of their own, by name; none in a build that has them built in."""
    names = {
        path.name: path
        for folder in wheel_folders()
        for suffix in _SUFFIXES
        for path in sorted(folder.glob(f"libggml-*{suffix}"))
        if not path.name.startswith("libggml-base")
    }
    return tuple(names[name] for name in sorted(names))


@cache
def ggml() -> "Ggml":
    """The registry of this process. Raises CpuCodeUnusable when the wheel has no library."""
    folder = wheel_folders()[0]
    for path in (folder / f"libllama{suffix}" for suffix in _SUFFIXES):
        if path.is_file():
            try:
                return Ggml(ctypes.CDLL(str(path)))
            except OSError as error:
                raise CpuCodeUnusable(f"{path.name} cannot be loaded: {error}", hint="make setup") from error
    raise CpuCodeUnusable(f"no libllama in {folder}", hint="build llama-cpp-python again: make clean setup")


class Ggml:
    """Registered backends and their devices. Pointers are `int`; 0 and None are C's NULL."""

    def __init__(self, library: Any) -> None:
        self.library = library
        pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
        self._declare("ggml_backend_load", pointer, text)
        self._declare("ggml_backend_reg_count", size)
        self._declare("ggml_backend_reg_get", pointer, size)
        self._declare("ggml_backend_reg_name", text, pointer)
        self._declare("ggml_backend_reg_get_proc_address", pointer, pointer, text)
        self._declare("ggml_backend_dev_count", size)
        self._declare("ggml_backend_dev_get", pointer, size)
        self._declare("ggml_backend_dev_name", text, pointer)
        self._declare("ggml_backend_dev_description", text, pointer)
        self._declare("ggml_backend_dev_type", ctypes.c_int, pointer)
        self._declare("ggml_backend_dev_memory", None, pointer, ctypes.POINTER(size), ctypes.POINTER(size))

    def _declare(self, name: str, result: Any, *arguments: Any) -> None:
        function = getattr(self.library, name)
        function.restype, function.argtypes = result, arguments

    def load(self, path: Path) -> int | None:
        """Load and register a backend; its registry entry, None when it cannot run here."""
        entry: int | None = self.library.ggml_backend_load(str(path).encode())
        return entry

    def registered(self, name: str) -> int | None:
        """The registry entry of a backend: "CPU", "CUDA", "Metal"..."""
        for index in range(self.library.ggml_backend_reg_count()):
            entry: int = self.library.ggml_backend_reg_get(index)
            if self.library.ggml_backend_reg_name(entry) == name.encode():
                return entry
        return None

    def address(self, entry: int, name: str) -> int | None:
        """A function that a backend offers beside the common ones; None when it does not."""
        address: int | None = self.library.ggml_backend_reg_get_proc_address(entry, name.encode())
        return address

    def features(self, entry: int) -> tuple[str, ...]:
        """Instruction sets and the like that the code of a backend was compiled for, as llama.cpp names them."""
        address = self.address(entry, "ggml_backend_get_features")
        if not address:
            return ()
        listed = ctypes.CFUNCTYPE(ctypes.POINTER(_Feature), ctypes.c_void_p)(address)(entry)
        names: list[str] = []
        while (feature := listed[len(names)]).name:
            names.append(feature.name.decode("ascii", "replace"))
        return tuple(names)

    def gpus(self) -> tuple[Device, ...]:
        """The GPUs that llama.cpp would use, in its order: discrete ones, or the first integrated one if none is."""
        every = [self.library.ggml_backend_dev_get(index) for index in range(self.library.ggml_backend_dev_count())]
        discrete = [one for one in every if self.library.ggml_backend_dev_type(one) == _GPU]
        integrated = [one for one in every if self.library.ggml_backend_dev_type(one) == _INTEGRATED_GPU]
        return tuple(self._device(index, one) for index, one in enumerate(discrete or integrated[:1]))

    def _device(self, index: int, device: int) -> Device:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.library.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        name = self.library.ggml_backend_dev_name(device) or b""
        description = self.library.ggml_backend_dev_description(device) or b""
        return Device(
            index, name.decode(errors="replace"), description.decode(errors="replace"), free.value, total.value
        )
