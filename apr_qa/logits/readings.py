"""What one engine predicts for a feed, as arrays that can be stored and compared."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from apr_qa.comparison.divergence import divergence, require_logits
from apr_qa.logits.feed import Feed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

_CHECKED_PROMPTS = 2
"""Continuations whose cached decoding is compared with one pass."""


class Probe(Protocol):
    """One loaded model; see `torch_probe` and `llama_probe`."""

    engine: str

    def logits(self, rows: Sequence[Sequence[int]], positions: Sequence[int]) -> npt.NDArray[np.float32]: ...

    def decoded(
        self, rows: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]] | None, new_tokens: int
    ) -> npt.NDArray[np.float32]: ...

    def inner(self, ids: Sequence[int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Readings:
    """The predictions of one side."""

    text: npt.NDArray[np.float32]
    """Logits [positions, vocabulary]."""
    continuations: npt.NDArray[np.int64]
    """[prompts, new tokens]: what was appended to the prompts."""
    choices: npt.NDArray[np.int64]
    """[prompts, new tokens]: the first choice before each appended token."""
    leads: npt.NDArray[np.float32]
    """[prompts, new tokens]: logit of the first minus that of the second choice."""
    hidden: npt.NDArray[np.float32]
    """[states, tokens, hidden]; the last state is that behind the final norm."""
    attention: npt.NDArray[np.float32] | None = None
    """[layers, heads, tokens, tokens]."""
    noted: dict[str, Any] = field(default_factory=dict)
    """``engine``, and under ``incremental`` the divergence of cached decoding from one pass."""

    def save(self, path: Path) -> None:
        """Write to ``path``; the caller makes it atomic."""
        import numpy as np

        arrays = {
            name: array for name, array in vars(self).items() if isinstance(array, np.ndarray) and array.size
        }
        noted = np.frombuffer(json.dumps(self.noted).encode(), np.uint8)
        with path.open("wb") as stream:
            np.savez(stream, allow_pickle=False, noted=noted, **arrays)


def load(path: Path) -> Readings:
    """Read what `Readings.save` wrote; raises OSError, ValueError or KeyError for anything else."""
    import numpy as np

    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files if name != "noted"}
        noted = json.loads(stored["noted"].tobytes())
    return Readings(**arrays, noted=noted)


def take(probe: Probe, feed: Feed, continuations: npt.NDArray[np.int64] | None = None) -> Readings:
    """Let an engine read ``feed``; without ``continuations`` it appends its own first choices.

    Raises InferenceFailed for an engine that refuses or predicts anything but finite numbers.
    """
    import numpy as np

    text = probe.logits([feed.text], feed.positions)
    require_logits(text, f"{probe.engine} ")
    forced = None if continuations is None else continuations.tolist()
    steps = probe.decoded(feed.prompts, forced, feed.new_tokens)
    require_logits(steps, f"{probe.engine} ")
    shape = (len(feed.prompts), feed.new_tokens)
    choices = steps.argmax(-1).reshape(shape)
    best = np.partition(steps, -2, axis=-1)[:, -2:]
    appended = choices if continuations is None else continuations
    hidden, attention = probe.inner(feed.inner)
    return Readings(
        text=text,
        continuations=appended,
        choices=choices,
        leads=(best[:, 1] - best[:, 0]).reshape(shape),
        hidden=hidden,
        attention=attention,
        noted={"engine": probe.engine, "incremental": _incremental(probe, feed, appended, steps)},
    )


def _incremental(
    probe: Probe, feed: Feed, appended: npt.NDArray[np.int64], steps: npt.NDArray[np.float32]
) -> dict[str, Any]:
    prompts = feed.prompts[:_CHECKED_PROMPTS]
    rows = [[*prompt, *more[:-1]] for prompt, more in zip(prompts, appended.tolist(), strict=False)]
    begin = len(prompts[0]) - 1
    whole = probe.logits(rows, range(begin, begin + feed.new_tokens))
    return divergence(whole, steps[: len(whole)])
