"""SafeTensors and APR through transformers and torch.

In a chat, generation also ends at the token that the chat template writes after an assistant turn; where
the artifact does not declare it as an end, the response says so in ``facts["undeclared_end_token"]``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Container, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa import devices
from apr_qa.backends import BACKENDS, Request, Session
from apr_qa.errors import EngineMissing, Inapplicable, InferenceFailed
from apr_qa.formats import FORMATS
from apr_qa.inference import chat_template, decoding, pretrained, torch_prefill
from apr_qa.inference.pretrained import INSTALL, blamed_on_engine
from apr_qa.inference.protected_prompt import protected
from apr_qa.tracing.session_checks import SessionChecks
from apr_qa.vocabulary import Response, Target

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from apr_qa.tracing.stages import Sink

_PROBE = "apr-qa-turn"


class TorchSession:
    """One model and its tokenizer; also the engine of the shared decode loop."""

    max_sequences = 96
    max_cells = 32768

    def __init__(self, model: Any, tokenizer: Any, template: str | None) -> None:
        text_config = model.config.get_text_config()
        self.context_size = int(getattr(text_config, "max_position_embeddings", 0) or 0)
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        declared = _ids(model.generation_config.eos_token_id) + _ids(tokenizer.eos_token_id)
        self.end_ids: Container[int] = frozenset(declared)
        self._model = model
        self._tokenizer = tokenizer
        self._template = template
        self._turn_end: list[int | None] = []
        self._rows: list[int] = []
        self._checks = SessionChecks(self)
        self._cache: Any = None
        self._mask: Any = None

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        decoding.utf8(text)
        with blamed_on_engine("tokenizing"):
            encoded = self._tokenizer(
                text, add_special_tokens=add_special, split_special_tokens=not parse_special
            )
            return [int(token) for token in encoded["input_ids"]]

    def detokenize(self, token_ids: Sequence[int]) -> str:
        with blamed_on_engine("detokenizing"):
            return str(
                self._tokenizer.decode(
                    list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
            )

    def generate(self, requests: Sequence[Request]) -> list[Response]:
        try:
            return decoding.generate(self, requests)
        finally:
            self._cache = None

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
        import torch

        decoding.require_tokens(self, token_ids)
        with blamed_on_engine("the forward pass"), torch.inference_mode():
            ids = torch.tensor([list(token_ids)], device=self._model.device)
            result = _array(self._model(input_ids=ids, use_cache=False).logits[0])
        decoding.require_finite(result)
        return result

    def render_chat(self, messages: Sequence[dict[str, str]]) -> str:
        added = self._tokenizer.added_tokens_decoder.values()
        controls = {str(token.content) for token in added if token.special}
        return protected(lambda safe: self._render(safe, add_generation_prompt=True), messages, controls)

    def observe(self, token_ids: Sequence[int], sink: Sink) -> npt.NDArray[np.float32]:
        """Show ``sink`` every stage of one forward pass; return the logits, [tokens, vocab_size]."""
        decoding.require_tokens(self, token_ids)
        from apr_qa.tracing import torch_pass

        with blamed_on_engine("the forward pass"):
            return torch_pass.observe(self._model, token_ids, sink)

    def facts(self, check: str, params: dict[str, Any]) -> dict[str, Any]:
        return self._checks.facts(check, params)

    def close(self) -> None:
        self._model = self._cache = self._mask = None

    def _render(self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool) -> str:
        if not self._template:
            raise InferenceFailed("the artifact has no chat template")
        return chat_template.render(
            self._template,
            messages,
            special_tokens=dict(self._tokenizer.special_tokens_map),
            add_generation_prompt=add_generation_prompt,
        )

    # ---- engine of the decode loop

    def turn_end_id(self) -> int | None:
        if not self._turn_end:
            self._turn_end.append(self._find_turn_end())
        return self._turn_end[0]

    def _find_turn_end(self) -> int | None:
        conversation = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
        try:
            text = self._render(conversation, add_generation_prompt=False)
        except InferenceFailed:
            return None
        rest = text.rpartition(_PROBE)[2].strip()
        ids = self.tokenize(rest, add_special=False, parse_special=True) if rest else []
        return ids[0] if ids and ids[0] in self._tokenizer.added_tokens_decoder else None

    def prefill(self, prompts: Sequence[Sequence[int]], positions: int) -> npt.NDArray[np.float32]:
        import torch

        with blamed_on_engine("the forward pass"), torch.inference_mode():
            read = torch_prefill.read(self._model, prompts)
            self._rows = list(range(len(prompts)))
            self._cache, self._mask = read.cache, read.mask
            return _array(read.logits)

    def step(self, rows: Sequence[int], tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        import torch

        if list(rows) != self._rows:
            kept = [self._rows.index(row) for row in rows]
            keep = torch.tensor(kept, device=self._model.device)
            self._cache.batch_select_indices(keep)
            self._mask = self._mask[keep]
            self._rows = list(rows)
        self._mask = torch.cat([self._mask, self._mask.new_ones((len(rows), 1))], dim=-1)
        ids = torch.tensor([[token] for token in tokens], device=self._model.device)
        return self._forward(ids, self._mask.sum(-1, keepdim=True) - 1)

    def _forward(self, ids: Any, positions: Any) -> npt.NDArray[np.float32]:
        import torch

        with blamed_on_engine("the forward pass"), torch.inference_mode():
            output = self._model(
                input_ids=ids,
                attention_mask=self._mask,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
            return _array(output.logits[:, -1])


class TransformersTorch:
    """The engine of SafeTensors and APR."""

    name = "transformers_torch"
    formats: tuple[str, ...] = ("safetensors", "apr")

    def unavailable(self, target: Target) -> str | None:
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed ({INSTALL})"
        return devices.cuda_missing() if target.backend == "gpu" else None

    def load(self, target: Target, artifact: Path, *, threads: int = 0, endpoint: str = "") -> Session:
        try:
            import torch
            import transformers
        except ImportError as error:
            raise EngineMissing(f"torch or transformers cannot be imported: {error}", fix=INSTALL) from error
        if target.backend == "gpu" and not torch.cuda.is_available():
            raise Inapplicable("torch sees no CUDA device")
        if threads > 0:
            torch.set_num_threads(threads)
        logging: Any = transformers.utils.logging
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        opened = FORMATS.get(target.format).open(artifact)
        device = "cuda" if target.backend == "gpu" else "cpu"
        with blamed_on_engine("loading the model"):
            model = pretrained.load_model(opened, device)
        with blamed_on_engine("loading the tokenizer"):
            tokenizer = pretrained.load_tokenizer(opened)
        template = tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        return TorchSession(model, tokenizer, template or opened.chat_template)


def _ids(declared: Any) -> list[int]:
    if declared is None:
        return []
    return [int(token) for token in (declared if isinstance(declared, list | tuple) else [declared])]


def _array(tensor: Any) -> npt.NDArray[np.float32]:
    import numpy as np

    return np.asarray(tensor.float().cpu().numpy(), dtype=np.float32)


BACKENDS.register("transformers_torch")(TransformersTorch())
