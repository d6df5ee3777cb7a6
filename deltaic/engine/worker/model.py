"""A loaded model: its vocabulary, its template, and the facts that requests are checked against.

The vocabulary is read only once loaded, so tokenising is safe on any thread; ctypes releases the GIL around it.
"""

import ctypes
from pathlib import Path
from typing import Any

from deltaic.engine.errors import WorkerFailed
from deltaic.engine.native.backends import load_backends
from deltaic.engine.placement.options import apply_plan
from deltaic.engine.placement.plan import Plan
from deltaic.engine.worker.native_log import NativeLog
from deltaic.engine.worker.template import ChatTemplate


class Model:
    """Weights and vocabulary. `close` frees them; nothing may be called after that."""

    def __init__(self, path: Path, log: NativeLog, *, plan: Plan | None = None) -> None:
        """Map the file; without a plan, no layer goes to a GPU.

        Raises WorkerFailed with llama.cpp's complaint, CpuCodeUnusable; a malformed file may abort the process.
        """
        load_backends()
        import llama_cpp.llama_cpp as native

        self.native: Any = native
        parameters = native.llama_model_default_params()
        parameters.n_gpu_layers = 0
        held = apply_plan(plan, parameters, int(native.llama_max_devices())) if plan else []
        self.pointer: Any = native.llama_model_load_from_file(str(path).encode(), parameters)
        held.clear()
        if not self.pointer:
            raise WorkerFailed(f"llama.cpp cannot load {path.name}: {log.complaint}", hint="publish a sound GGUF file")
        self._vocabulary: Any = native.llama_model_get_vocab(self.pointer)
        if not native.llama_model_has_decoder(self.pointer) or native.llama_model_has_encoder(self.pointer):
            raise WorkerFailed(f"{path.name} is not a decoder-only language model", hint="publish a generative model")
        self.vocabulary_size = int(native.llama_vocab_n_tokens(self._vocabulary))
        self.trained_context = int(native.llama_model_n_ctx_train(self.pointer))
        self._bos = int(native.llama_vocab_bos(self._vocabulary))
        self._adds_bos = bool(native.llama_vocab_get_add_bos(self._vocabulary)) and self._bos >= 0
        self.template = ChatTemplate(
            self._template_text(), bos=self._token_text(self._bos), eos=self._token_text(self._eos())
        )

    @property
    def first_token(self) -> int:
        """A token that every model can start with: what warming up decodes."""
        return max(self._bos, 0)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Tokens of a prompt; special tokens in the text are special, and the vocabulary's BOS comes once."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 16
        while True:
            buffer = (self.native.llama_token * room)()
            count = self.native.llama_tokenize(self._vocabulary, raw, len(raw), buffer, room, False, True)
            if count >= 0:
                break
            room = -count
        tokens = tuple(buffer[:count])
        return (self._bos, *tokens) if self._adds_bos and tokens[:1] != (self._bos,) else tokens

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; nothing for control tokens. May end inside a character."""
        buffer = ctypes.create_string_buffer(128)
        size = self.native.llama_token_to_piece(self._vocabulary, token, buffer, len(buffer), 0, False)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = self.native.llama_token_to_piece(self._vocabulary, token, buffer, len(buffer), 0, False)
        return buffer.raw[:size]

    def ends(self, token: int) -> bool:
        """Whether this token ends a turn or the text."""
        return bool(self.native.llama_vocab_is_eog(self._vocabulary, token))

    def close(self) -> None:
        if self.pointer:
            self.native.llama_model_free(self.pointer)
            self.pointer = None

    def _eos(self) -> int:
        return int(self.native.llama_vocab_eos(self._vocabulary))

    def _template_text(self) -> str | None:
        text: bytes | None = self.native.llama_model_chat_template(self.pointer, None)
        return None if text is None else text.decode("utf-8", "replace")

    def _token_text(self, token: int) -> str:
        text: bytes = self.native.llama_vocab_get_text(self._vocabulary, token) if token >= 0 else b""
        return text.decode("utf-8", "replace")
