"""LoRA adapters of the loaded model. Belongs to the thread of the context.

Requests name adapters; inside the worker each loading has a key of its own, so that the state of a prompt that was read
under one file is never reused under another file of the same name.
"""

import ctypes
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltaic.engine.errors import AdapterNameTaken, BadAdapter, NoAdapter
from deltaic.engine.scheduling.request import Adapters
from deltaic.engine.worker.model import Model
from deltaic.engine.worker.native_log import NativeLog


@dataclass(frozen=True, slots=True)
class _Loaded:
    key: str
    path: Path
    pointer: Any


@dataclass(slots=True)
class AdapterShelf:
    """Adapters that requests may name, and those that only running requests still use."""

    model: Model
    context: Any
    log: NativeLog
    _by_name: dict[str, _Loaded] = field(default_factory=dict)
    _by_key: dict[str, _Loaded] = field(default_factory=dict)
    _uses: Counter[str] = field(default_factory=Counter)
    _applied: Adapters = ()
    _loads: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._by_name))

    def load(self, name: str, path: Path) -> None:
        """Raises AdapterNameTaken, NoAdapter (no such file), BadAdapter (not an adapter of this model)."""
        known = self._by_name.get(name)
        if known is not None and known.path == path:
            return
        if known is not None:
            raise AdapterNameTaken(f"the adapter {name} is loaded from {known.path.name}", hint="unload it first")
        if not path.is_file():
            raise NoAdapter(f"there is no file {path}", hint="give the path of a LoRA adapter in GGUF")
        self.log.errors.clear()
        pointer = self.model.native.llama_adapter_lora_init(self.model.pointer, str(path).encode())
        if not pointer:
            raise BadAdapter(
                f"llama.cpp cannot use {path.name} with this model: {self.log.complaint}",
                hint="give a LoRA adapter in GGUF that was made for this model",
            )
        self._loads += 1
        loaded = _Loaded(f"{name}#{self._loads}", path, pointer)
        self._by_name[name] = self._by_key[loaded.key] = loaded

    def unload(self, name: str) -> None:
        """No further request may use it; it is freed with the last that does. Raises NoAdapter."""
        if name not in self._by_name:
            raise NoAdapter(f"no adapter {name} is loaded", hint=f"there are: {', '.join(self.names) or 'none'}")
        del self._by_name[name]
        self._free_unused()

    def take(self, wanted: Adapters) -> Adapters:
        """Count a request that uses these names; their keys. Raises NoAdapter."""
        for name, _ in wanted:
            if name not in self._by_name:
                raise NoAdapter(f"no adapter {name} is loaded", hint=f"there are: {', '.join(self.names) or 'none'}")
        keys = tuple((self._by_name[name].key, scale) for name, scale in wanted)
        self._uses.update(key for key, _ in keys)
        return keys

    def give_back(self, keys: Adapters) -> None:
        """A request that used these has ended."""
        if keys:
            self._uses.subtract(key for key, _ in keys)
            self._free_unused()

    def apply(self, keys: Adapters) -> None:
        """Use exactly these in the next decode calls."""
        if keys == self._applied:
            return
        native, pointers = self.model.native, [self._by_key[key].pointer for key, _ in keys]
        array = (native.llama_adapter_lora_p_ctypes * len(pointers))(*pointers)
        scales = (ctypes.c_float * len(pointers))(*(scale for _, scale in keys))
        native.llama_set_adapters_lora(self.context, array, len(pointers), scales)
        self._applied = keys

    def _free_unused(self) -> None:
        named = {loaded.key for loaded in self._by_name.values()}
        for key in [key for key in self._by_key if key not in named and self._uses[key] <= 0]:
            if any(key == applied for applied, _ in self._applied):
                self.apply(())
            self.model.native.llama_adapter_lora_free(self._by_key.pop(key).pointer)
            del self._uses[key]
