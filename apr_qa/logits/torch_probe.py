"""Predictions of SafeTensors and APR through torch, with what only torch shows: attention and hidden states.

Lengths are equal within a batch, so nothing is padded. Arrays are float32.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from apr_qa import confinement
from apr_qa.errors import EngineMissing
from apr_qa.formats import OpenModel
from apr_qa.inference import pretrained
from apr_qa.inference.pretrained import INSTALL, blamed_on_engine

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Rounding = Callable[[str, "npt.NDArray[np.float32]"], "npt.NDArray[np.float32]"]


class Recast:
    """A model file as if it were stored in another type: what it computes in, and how its values are rounded.

    With a rounding the weights are handed over one by one, as plain numbers, instead of being loaded by the
    engine's own reader.
    """

    def __init__(self, opened: OpenModel, quantization: str, rounding: Rounding | None = None) -> None:
        self.format = opened.format if rounding is None else "rounded"
        self.path = opened.path
        self.files = opened.files
        self.architecture = opened.architecture
        self.config = {key: value for key, value in opened.config.items() if key != "quantization_config"}
        self.tensors = opened.tensors
        self.quantization = quantization
        self.tokenizer = opened.tokenizer
        self.tokenizer_config = opened.tokenizer_config
        self.generation_config = opened.generation_config
        self.chat_template = opened.chat_template
        self.metadata = opened.metadata
        self._opened = opened
        self._rounding = rounding

    def read(self, name: str) -> npt.NDArray[np.float32]:
        values = self._opened.read(name)
        return values if self._rounding is None else self._rounding(name, values)

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        return self._opened.raw(name)


class TorchProbe:
    """One model in torch."""

    engine = "transformers_torch"

    def __init__(self, opened: OpenModel, device: str = "cpu") -> None:
        try:
            import torch
            import transformers
        except ImportError as error:
            raise EngineMissing(f"torch or transformers cannot be imported: {error}", fix=INSTALL) from error
        logging: Any = transformers.utils.logging
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._torch = torch
        with blamed_on_engine("loading the model"):
            self._model = pretrained.load_model(opened, device)

    def logits(self, rows: Sequence[Sequence[int]], positions: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return logits [rows × positions, vocabulary] of one pass over sequences of equal length."""
        torch = self._torch
        with blamed_on_engine("the forward pass"), torch.inference_mode():
            keep = torch.tensor(list(positions), device=self._model.device)
            output = self._model(input_ids=self._ids(rows), use_cache=False, logits_to_keep=keep)
            return _array(output.logits.reshape(-1, output.logits.shape[-1]))

    def decoded(
        self, rows: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]] | None, new_tokens: int
    ) -> npt.NDArray[np.float32]:
        """Return logits [rows × new_tokens, vocabulary] of decoding token by token with the cache.

        The tokens that are appended are ``continuations``, or the model's own first choices.
        """
        import numpy as np
        from transformers import DynamicCache

        torch = self._torch
        steps = []
        with blamed_on_engine("decoding"), torch.inference_mode():
            cache = DynamicCache(config=self._model.config)
            ids = self._ids(rows)
            for step in range(new_tokens):
                output = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                steps.append(_array(output.logits[:, -1]))
                taken = (
                    steps[-1].argmax(-1) if continuations is None else [row[step] for row in continuations]
                )
                ids = self._ids([[int(token)] for token in taken])
        return np.stack(steps, axis=1).reshape(-1, steps[0].shape[-1])

    def inner(self, ids: Sequence[int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Return hidden states [layers + 1, tokens, hidden] and attention [layers, heads, tokens, tokens].

        The last hidden state is that behind the final norm. Attention is None where the architecture gives none.
        """
        import numpy as np

        torch = self._torch
        with blamed_on_engine("the forward pass"), torch.inference_mode():
            self._model.set_attn_implementation("eager")
            output = self._model(
                input_ids=self._ids([ids]),
                use_cache=False,
                output_hidden_states=True,
                output_attentions=True,
                logits_to_keep=1,
            )
            self._model.set_attn_implementation("sdpa")
            hidden = np.stack([_array(state[0]) for state in output.hidden_states])
            given = [one for one in output.attentions or () if one is not None]
            attention = np.stack([_array(one[0]) for one in given]) if given else None
        return hidden, attention

    def close(self) -> None:
        """Release the weights at once: parts of a model refer to each other, and the next one may be as large."""
        self._model = None
        gc.collect()
        confinement.give_back()

    def _ids(self, rows: Sequence[Sequence[int]]) -> Any:
        return self._torch.tensor([list(row) for row in rows], device=self._model.device)


def _array(tensor: Any) -> npt.NDArray[np.float32]:
    import numpy as np

    return np.asarray(tensor.float().cpu().numpy(), dtype=np.float32)
