"""GGUF through llama.cpp: the C interface of llama-cpp-python, several sequences in one batch.

The high-level class of llama-cpp-python decodes one sequence at a time; here every step decodes one
token of each sequence of a wave.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from collections.abc import Container, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa import devices
from apr_qa.backends import BACKENDS, Request, Session
from apr_qa.errors import EngineMissing, Inapplicable, InferenceFailed
from apr_qa.inference import chat_template, decoding, prefilling
from apr_qa.inference.llama_native import BATCH_TOKENS, Context, NativeModel, Shape, last_words
from apr_qa.inference.protected_prompt import protected
from apr_qa.tracing.session_checks import SessionChecks
from apr_qa.vocabulary import Response, Target

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from apr_qa.tracing.stages import Sink

_INSTALL = "pip install 'apr-qa[llama]'"
_GPU_LIBRARIES = ("cuda", "hip", "metal", "musa", "sycl", "vulkan")
"""Parts of the file names of ggml's GPU libraries; the first one needs an NVIDIA driver."""


class LlamaSession:
    """One GGUF model; also the engine of the shared decode loop."""

    max_sequences = 32
    max_cells = 8192

    def __init__(self, native: NativeModel) -> None:
        self._native = native
        self._llama = llama = native.llama
        self._vocab = llama.llama_model_get_vocab(native.pointer)
        self._context: Context | None = None
        self._lengths: list[int] = []
        self._slots: dict[int, int] = {}
        self._checks = SessionChecks(self)
        if llama.llama_vocab_type(self._vocab) == llama.LLAMA_VOCAB_TYPE_NONE:
            raise InferenceFailed("the file has no tokenizer")
        self.vocab_size = int(llama.llama_vocab_n_tokens(self._vocab))
        self.context_size = int(llama.llama_model_n_ctx_train(native.pointer))
        self.end_ids: Container[int] = _EndOfGeneration(llama, self._vocab)

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        data = decoding.utf8(text)
        size = len(data) + 8
        tokens = (self._llama.llama_token * size)()
        count = self._llama.llama_tokenize(
            self._vocab, data, len(data), tokens, size, add_special, parse_special
        )
        if count < 0:
            raise InferenceFailed(f"llama.cpp cannot tokenize the text: {last_words()}")
        return list(tokens[:count])

    def detokenize(self, token_ids: Sequence[int]) -> str:
        if not token_ids:
            return ""
        tokens = (self._llama.llama_token * len(token_ids))(*token_ids)
        size = 16 * len(token_ids)
        while True:
            buffer = ctypes.create_string_buffer(size)
            used = self._llama.llama_detokenize(
                self._vocab, tokens, len(token_ids), buffer, size, False, False
            )
            if used >= 0:
                return buffer.raw[:used].decode("utf-8", errors="replace")
            size = -used

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        return decoding.generate(self, requests)

    def stream(self, request: Request) -> Generator[str, None, Response]:
        return (yield from decoding.stream(self, request))

    def chat(
        self,
        messages: Sequence[dict[str, str]],
        max_tokens: int = 32,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Response:
        request = Request(self.render_chat(messages), max_tokens, temperature, seed, templated=True)
        return self.generate([request])[0]

    def logits(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        decoding.require_tokens(self, token_ids)
        context = self._context_for(Shape(1, len(token_ids), BATCH_TOKENS))
        entries = [(token, position, 0, True) for position, token in enumerate(token_ids)]
        result = context.decode(entries)
        decoding.require_finite(result)
        return result

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        template = self._llama.llama_model_chat_template(self._native.pointer, None)
        if not template:
            raise InferenceFailed("the artifact has no chat template")
        source = template.decode("utf-8", "replace")
        return protected(
            lambda safe: chat_template.render(source, safe, special_tokens=self._special_tokens()),
            messages,
            self._controls,
        )

    @functools.cached_property
    def _controls(self) -> frozenset[str]:
        """Texts of the control tokens, which a user's message must not become."""
        get_attr, control = self._llama.llama_vocab_get_attr, self._llama.LLAMA_TOKEN_ATTR_CONTROL
        ids = [token for token in range(self.vocab_size) if get_attr(self._vocab, token) & control]
        texts = (self._llama.llama_vocab_get_text(self._vocab, token) for token in ids)
        return frozenset(text.decode("utf-8", "replace") for text in texts)

    def observe(self, token_ids: Sequence[int], sink: Sink) -> npt.NDArray[np.float32]:
        """Show ``sink`` every stage of one forward pass; return the logits, [tokens, vocab_size]."""
        decoding.require_tokens(self, token_ids)
        from apr_qa.tracing import llama_pass

        return llama_pass.observe(self._native, token_ids, sink)

    def facts(self, check: str, params: dict[str, Any]) -> dict[str, Any]:
        return self._checks.facts(check, params)

    def close(self) -> None:
        self._drop_context()
        self._native.close()

    def _special_tokens(self) -> dict[str, str]:
        ids = {
            "bos_token": self._llama.llama_vocab_bos(self._vocab),
            "eos_token": self._llama.llama_vocab_eos(self._vocab),
            "pad_token": self._llama.llama_vocab_pad(self._vocab),
        }
        return {
            name: self._llama.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")
            for name, token in ids.items()
            if token >= 0
        }

    def _context_for(self, shape: Shape) -> Context:
        """Return an empty context that is large enough; the last one is used again where it is."""
        if self._context is None or not self._context.holds(shape):
            self._drop_context()
            self._context = Context(self._native, shape)
        self._context.clear()
        return self._context

    def _drop_context(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None

    # ---- engine of the decode loop

    def turn_end_id(self) -> int | None:
        """llama.cpp finds the end-of-turn token itself and counts it among the ends of generation."""
        return None

    def prefill(self, prompts: Sequence[Sequence[int]], positions: int) -> npt.NDArray[np.float32]:
        shape = Shape(len(prompts), positions, len(prompts), exact=not self._native.rounds())
        context = self._context_for(shape)
        self._lengths = [len(prompt) for prompt in prompts]
        families = prefilling.alike(prompts) if context.shares_beginnings() else []
        begun = {row: shared for shared, rows in families for row in rows}
        # Those with most left to read come first, so that those that go on are neighbours, see `_ordered`.
        rests = sorted(range(len(prompts)), key=lambda row: begun.get(row, 0) - len(prompts[row]))
        self._slots = {row: slot for slot, row in enumerate(rests)}
        for shared, rows in families:
            first = min(self._slots[row] for row in rows)
            context.decode([(prompts[rows[0]][place], place, first, False) for place in range(shared)])
            context.copy(first, (self._slots[row] for row in rows if self._slots[row] != first))
        entries = [
            (prompts[row][place], place, self._slots[row], place == len(prompts[row]) - 1)
            for row in rests
            for place in range(begun.get(row, 0), len(prompts[row]))
        ]
        return self._ordered(context.decode(entries), range(len(prompts)))

    def step(self, rows: Sequence[int], tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        if self._context is None:
            raise InferenceFailed("a step needs a prefill before it")
        self._close_up(self._context, rows)
        entries = []
        for row, token in sorted(zip(rows, tokens, strict=True), key=lambda one: self._slots[one[0]]):
            entries.append((token, self._lengths[row], self._slots[row], True))
            self._lengths[row] += 1
        return self._ordered(self._context.decode(entries), rows)

    def _close_up(self, context: Context, rows: Sequence[int]) -> None:
        """Forget the sequences that are not in ``rows`` and move the last ones into their places.

        llama.cpp computes neighbours together, and reads all weights once more for each gap between them.
        """
        if len(rows) == len(self._slots) or not self._native.streams():
            return
        slots = {row: self._slots[row] for row in rows}
        free = sorted(set(range(len(rows))) - set(slots.values()))
        late = [row for row, slot in slots.items() if slot >= len(rows)]
        for row, slot in zip(late, free, strict=True):
            context.move(slots[row], slot)
            slots[row] = slot
        self._slots = slots

    def _ordered(self, logits: npt.NDArray[np.float32], rows: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return ``logits``, which are in the order of slots, in the order of ``rows``."""
        by_slot = sorted(rows, key=self._slots.__getitem__)
        return logits if by_slot == list(rows) else logits[[by_slot.index(row) for row in rows]]


class _EndOfGeneration:
    """The tokens that llama.cpp ends a generation at: declared ones and those it knows by name."""

    def __init__(self, llama: Any, vocab: Any) -> None:
        self._llama = llama
        self._vocab = vocab

    def __contains__(self, token_id: object) -> bool:
        return bool(self._llama.llama_vocab_is_eog(self._vocab, token_id))


class LlamaCpp:
    """The engine of GGUF."""

    name = "llama_cpp"
    formats: tuple[str, ...] = ("gguf",)

    def unavailable(self, target: Target) -> str | None:
        package = importlib.util.find_spec("llama_cpp")
        if package is None:
            return f"llama-cpp-python is not installed ({_INSTALL})"
        if target.backend != "gpu":
            return None
        folders = [Path(folder) / "lib" for folder in package.submodule_search_locations or ()]
        libraries = [file.name for folder in folders for file in folder.glob("*ggml-*")]
        if not any(kind in name for name in libraries for kind in _GPU_LIBRARIES):
            return "llama-cpp-python is built without GPU support"
        only_cuda = not any(kind in name for name in libraries for kind in _GPU_LIBRARIES[1:])
        return devices.cuda_missing() if only_cuda else None

    def load(self, target: Target, artifact: Path, *, threads: int = 0, endpoint: str = "") -> Session:
        # OpenMP reads this when its library is loaded. Threads that spin while they wait are over ten times
        # slower as soon as another process wants a core (measured: 3 instead of 44 tokens/s on two cores).
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        try:
            import llama_cpp.llama_cpp as llama
        except (ImportError, OSError, RuntimeError) as error:
            raise EngineMissing(f"llama-cpp-python cannot be imported: {error}", fix=_INSTALL) from error
        gpu = target.backend == "gpu"
        if gpu and not llama.llama_supports_gpu_offload():
            raise Inapplicable("llama.cpp is built without GPU support, or finds no GPU")
        return LlamaSession(NativeModel(llama, artifact, threads or devices.usable_cores(), gpu=gpu))


BACKENDS.register("llama_cpp")(LlamaCpp())
