"""A loaded model: its vocabulary, its template, and the facts that requests are checked against.

The vocabulary is read only once loaded, so tokenising is safe on any thread; ctypes releases the GIL around it.
"""

import ctypes
from functools import cached_property
from pathlib import Path
from typing import Any

from deltaic.engine.errors import WorkerFailed
from deltaic.engine.native.backends import load_backends
from deltaic.engine.placement.options import apply_plan
from deltaic.engine.placement.plan import Plan
from deltaic.engine.worker.grammar import GrammarCompiler
from deltaic.engine.worker.native_log import NativeLog
from deltaic.engine.worker.template import ChatTemplate
from deltaic.engine.worker.tools import MARKERS, ToolFormat


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
        self.width = int(native.llama_model_n_embd_out(self.pointer))
        self.pools = self._meta("pooling_type") is not None
        self.trained_context = int(native.llama_model_n_ctx_train(self.pointer))
        self.layers = int(native.llama_model_n_layer(self.pointer))
        self.grammars = GrammarCompiler(self)
        self._bos = int(native.llama_vocab_bos(self._vocabulary))
        self._adds_bos = bool(native.llama_vocab_get_add_bos(self._vocabulary)) and self._bos >= 0
        template = self._template_text()
        self.tool_format = ToolFormat.of_template(template)
        self._shown = {token for text in MARKERS if (token := self.special_token(text)) is not None}
        self.template = ChatTemplate(template, bos=self._token_text(self._bos), eos=self._token_text(self.eos))

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

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes that a token stands for; nothing for control tokens, but those around calls of tools.

        May end inside a character. `special` gives the text of every control token.
        """
        buffer, special = ctypes.create_string_buffer(128), special or token in self._shown
        size = self.native.llama_token_to_piece(self._vocabulary, token, buffer, len(buffer), 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = self.native.llama_token_to_piece(self._vocabulary, token, buffer, len(buffer), 0, special)
        return buffer.raw[:size]

    def special_token(self, text: str) -> int | None:
        """The one token that `text` is, if the model has such a special token."""
        raw, buffer = text.encode(), (self.native.llama_token * 4)()
        count = self.native.llama_tokenize(self._vocabulary, raw, len(raw), buffer, len(buffer), False, True)
        return int(buffer[0]) if count == 1 and self.special(buffer[0]) else None

    def special(self, token: int) -> bool:
        """Whether a token is more than its text: a control token, or one that its maker added by hand."""
        marks = self.native.LLAMA_TOKEN_ATTR_CONTROL | self.native.LLAMA_TOKEN_ATTR_USER_DEFINED
        return bool(self.native.llama_vocab_get_attr(self._vocabulary, token) & marks)

    @cached_property
    def longest_piece(self) -> int:
        """Bytes of the longest token: no text has fewer tokens than its bytes divided by it."""
        texts = (self.native.llama_vocab_get_text(self._vocabulary, token) for token in range(self.vocabulary_size))
        return max((len(text) for text in texts), default=1)

    def ends(self, token: int) -> bool:
        """Whether this token ends a turn or the text."""
        return bool(self.native.llama_vocab_is_eog(self._vocabulary, token))

    def _meta(self, name: str) -> str | None:
        """A value of the model's own architecture, as text."""
        buffer = ctypes.create_string_buffer(256)
        size = self.native.llama_model_meta_val_str(self.pointer, b"general.architecture", buffer, len(buffer))
        key = buffer.raw[: max(size, 0)] + b"." + name.encode()
        size = self.native.llama_model_meta_val_str(self.pointer, key, buffer, len(buffer))
        return None if size < 0 else buffer.value.decode("utf-8", "replace")

    def close(self) -> None:
        if self.pointer:
            self.native.llama_model_free(self.pointer)
            self.pointer = None

    @property
    def eos(self) -> int:
        """The token that ends a text; -1 where there is none."""
        return int(self.native.llama_vocab_eos(self._vocabulary))

    def _template_text(self) -> str | None:
        text: bytes | None = self.native.llama_model_chat_template(self.pointer, None)
        return None if text is None else text.decode("utf-8", "replace")

    def _token_text(self, token: int) -> str:
        text: bytes = self.native.llama_vocab_get_text(self._vocabulary, token) if token >= 0 else b""
        return text.decode("utf-8", "replace")
