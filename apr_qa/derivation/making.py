"""Derivatives made on the spot, of the model of the run, where a criterion is given none.

Each is a real derivative by a documented operation, and facts say that it was made here: they tell how the
operation treats this model, and nothing about the derivative of somebody else. Files lie in our cache, by the hash of
what they were made of.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa import __version__, workspace
from apr_qa.comparison.names import weights
from apr_qa.comparison.reference_text import long_text
from apr_qa.conversion.convert import convert
from apr_qa.derivation import merges, training
from apr_qa.derivation.lessons import CODE, PREFERENCES, PROSE
from apr_qa.derivation.members import Member, Unmeasured, find
from apr_qa.vocabulary import digest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

VERSION = 1
"""Raised when what is made changes."""
MAX_WEIGHTS = 1_000_000_000
"""Larger models take hours to train on a processor: their derivatives have to be brought."""
DENSITY, SPARSITY = 0.5, 0.1
EPOCHS = 3
SIXTEEN = ("f16", "bf16")


class Workshop:
    """Makes derivatives of one model; what is there already is taken."""

    def __init__(self, base: Member) -> None:
        self._base = base
        count = sum(prod(info.shape) for info in weights(base.model).values())
        if count > MAX_WEIGHTS:
            raise Unmeasured(f"a model of {count / 1e9:.1f}e9 weights has no derivatives made on the spot")
        key = digest(base.sha256, VERSION, __version__)
        self.folder = workspace.root() / "made" / key

    @cached_property
    def base(self) -> Path:
        """The model itself, as SafeTensors in 16 bits."""
        model = self._base.model
        if model.format == "safetensors" and model.quantization in SIXTEEN and model.path.is_dir():
            return model.path
        return self._made("base", lambda to: convert(model, "safetensors", to, quantization="f16"))

    @property
    def apr(self) -> Path:
        return self._made("imported.apr", lambda to: convert(find(str(self.base)).model, "apr", to))

    @property
    def int4(self) -> Path:
        kind = "q4_k_m"
        return self._made("int4.gguf", lambda to: convert(self._opened, "gguf", to, quantization=kind))

    @property
    def pruned(self) -> Path:
        def make(to: Path) -> None:
            model, tokenizer = training.loaded(find(str(self.base)))
            training.wanda(model, tokenizer, (*PROSE, *CODE), SPARSITY)
            self._save(model, to)

        return self._made("pruned", make)

    def specialist(self, subject: str) -> Path:
        """Return the base with adapters merged that were trained on ``prose`` or on ``code``; a log lies beside."""
        texts = {"prose": PROSE, "code": CODE}[subject]

        def make(to: Path) -> None:
            model, tokenizer = training.loaded(find(str(self.base)))
            self._log(to, training.lora(model, tokenizer, texts, EPOCHS))
            self._save(model, to)

        return self._made(subject, make)

    def students(self) -> tuple[Path, Path]:
        """Return the first third of the layers, untrained and distilled."""

        def cut(to: Path) -> None:
            self._save(training.shortened(training.loaded(find(str(self.base)))[0]), to)

        def distilled(to: Path) -> None:
            teacher, tokenizer = training.loaded(find(str(self.base)))
            student = training.loaded(find(str(untrained)))[0]
            self._log(to, training.distil(teacher, student, tokenizer, (*PROSE, *CODE), EPOCHS))
            self._save(student, to)

        untrained = self._made("untrained", cut)
        return untrained, self._made("student", distilled)

    @property
    def preferences(self) -> Path:
        def make(to: Path) -> None:
            to.mkdir()
            model, tokenizer = training.loaded(find(str(self.base)))
            self._log(to, training.dpo(model, tokenizer, PREFERENCES, EPOCHS))

        return self._made("preferences", make) / "log.json"

    @property
    def slerp(self) -> Path:
        return self._merged("slerp", merges.slerp, self.base, self.specialist("prose"))

    @property
    def ties(self) -> Path:
        parents = (self.specialist("prose"), self.specialist("code"))
        return self._merged("ties", merges.ties(DENSITY), self.base, *parents)

    @property
    def lessons(self) -> Path:
        rows = "".join(json.dumps({"text": text}) + "\n" for text in (*PROSE, *CODE))
        return self._made("lessons.jsonl", lambda to: to.write_text(rows, encoding="utf-8"))

    @property
    def text(self) -> Path:
        return self._made("text.txt", lambda to: to.write_text(long_text(), encoding="utf-8"))

    @property
    def _opened(self) -> Any:
        return find(str(self.base)).model

    def _merged(self, name: str, rule: Callable[..., Array], *parents: Path) -> Path:
        def make(to: Path) -> None:
            import numpy as np
            from safetensors.numpy import save_file

            models = [find(str(parent)).model for parent in parents]
            tensors = {n: rule(*(model.read(n) for model in models)) for n in models[0].tensors}
            to.mkdir()
            halves = {n: np.ascontiguousarray(values, np.float16) for n, values in tensors.items()}
            save_file(halves, to / "model.safetensors", metadata={"format": "pt"})
            self._companions(to)

        return self._made(name, make)

    def _save(self, model: Any, to: Path) -> None:
        import torch

        to.mkdir(exist_ok=True)
        model.to(torch.float16).save_pretrained(to)
        self._companions(to)

    def _companions(self, to: Path) -> None:
        """Copy what lies beside the base's weights and is not written yet: tokenizer, template, configuration."""
        for file in self.base.iterdir():
            there = (to / file.name).exists() or file.name.endswith(".index.json")
            if file.suffix in workspace.COMPANIONS and not there:
                shutil.copy(file, to / file.name)

    @staticmethod
    def _log(folder: Path, log: training.Log) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "log.json").write_text(json.dumps({"log_history": log}), encoding="utf-8")

    def _made(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return a file or folder of the workshop; a name appears there only when it is whole."""
        place = self.folder / name
        if not place.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".making-", dir=self.folder) as temporary:
                begun = Path(temporary) / name
                make(begun)
                begun.replace(place)
        return place
