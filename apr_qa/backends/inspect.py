"""Facts about a file, found without an engine; the gates judge them."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apr_qa import workspace
from apr_qa.backends import BACKENDS, Mute, Session
from apr_qa.containers.packed_weights import unpacked
from apr_qa.conversion.architectures import ARCHITECTURES, EMBEDDING, HEAD, expected_shapes, require
from apr_qa.errors import AprQaError, Inapplicable, MalformedFile
from apr_qa.extras import NotInstalled
from apr_qa.formats import FORMATS, OpenModel, sniff
from apr_qa.inspecting import self_description, tokenizer_probe
from apr_qa.inspecting.checks import CHECKS
from apr_qa.inspecting.tensor_scan import Scan, scan
from apr_qa.vocabulary import Target

if TYPE_CHECKING:
    pass

_DIMENSIONS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
)
_CONFIG_KEYS = {
    "hidden_dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "vocab_size": "vocab_size",
    "intermediate_dim": "intermediate_size",
}
"""Names that playbooks use for dimensions -> keys of a Hugging Face configuration."""

_SHOWN = 20
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|blk)\.(\d+)\.")
_EMBEDDINGS = (
    EMBEDDING,
    "embed_tokens.weight",
    "transformer.wte.weight",
    "wte.weight",
    "gpt_neox.embed_in.weight",
)


class Inspection(Mute):
    """An opened file and everything that can be asked about it."""

    def __init__(self, model: OpenModel) -> None:
        self.model = model

    def facts(self, check: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return the facts of one check; raises KeyError for a check that does not exist."""
        checks = {
            "header": self.header,
            "config": self.config,
            "layers": self.layers,
            "hidden": self.hidden,
            "vocab": self.vocabulary,
            "tensors": self.tensor_names,
            "shapes": self.shapes,
            "finite": self.finite,
            "zeros": self.dead,
            "tied_head": self.tied_head,
            "tokenizer": self.tokenizer,
            "tensor_list": self.tensor_list,
        }
        if check == "provenance":
            return self.provenance(str(params["origin"]))
        if check == "expected":
            return self.stated(params["dimensions"])
        if check == "isolation":
            return self_description.isolation(self.model, params)
        if check in CHECKS:
            return CHECKS[check](self.model)
        return checks[check]()

    # ---- headers

    def header(self) -> dict[str, Any]:
        model = self.model
        return {
            "format": model.format,
            "tensors": len(model.tensors),
            "files": len(model.files),
            "bytes": sum(file.stat().st_size for file in model.files),
            "quantization": model.quantization,
            "architecture": model.architecture,
            "obstacle": self._obstacle(),
            "chat_template": bool(model.chat_template),
        }

    def _obstacle(self) -> str:
        """Say why the built-in converter cannot help with this model, or nothing."""
        try:
            require(self.model.config)
        except AprQaError as refusal:
            return refusal.what
        return ""

    def config(self) -> dict[str, Any]:
        config, architecture = self.model.config, self.model.architecture
        known = architecture in ARCHITECTURES
        required = ("model_type", *_DIMENSIONS, "rms_norm_eps") if known else ("model_type",)
        return {
            "present": bool(config),
            "architecture": architecture,
            "required": len(required),
            "missing": [name for name in required if config.get(name) in (None, "")],
            "invalid": _invalid(config) if known else [],
        }

    def layers(self) -> dict[str, Any]:
        found = {int(match[1]) for name in self.model.tensors if (match := _LAYER.search(name))}
        config = self.model.config
        declared = next(
            (config[key] for key in ("num_hidden_layers", "n_layer", "num_layers") if key in config), None
        )
        return {"declared": declared, "found": max(found) + 1 if found else None}

    def _embedding_shape(self) -> tuple[int, ...] | None:
        return next((self.model.tensors[n].shape for n in _EMBEDDINGS if n in self.model.tensors), None)

    def hidden(self) -> dict[str, Any]:
        shape, config = self._embedding_shape(), self.model.config
        declared = next((config[key] for key in ("hidden_size", "n_embd", "d_model") if key in config), None)
        return {"declared": declared, "found": shape[1] if shape and len(shape) == 2 else None}

    def vocabulary(self) -> dict[str, Any]:
        shape = self._embedding_shape()
        try:
            vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
            highest = max(vocabulary.values()) + 1
        except (AprQaError, ValueError):
            highest = None
        return {
            "declared": self.model.config.get("vocab_size"),
            "found": shape[0] if shape else None,
            "tokenizer": highest,
        }

    def stated(self, dimensions: Mapping[str, int]) -> dict[str, Any]:
        found = {name: self.model.config.get(_CONFIG_KEYS[name]) for name in dimensions}
        return {"expected": dict(dimensions), "found": found}

    # ---- tensors

    def tensor_names(self) -> dict[str, Any]:
        expected = self._expected()
        if expected is None:
            return {"unknown_architecture": self.model.architecture or "(none)"}
        names = set(self.model.tensors)
        optional = {HEAD} | {name for name in names if name.endswith("rotary_emb.inv_freq")}
        return {
            "expected": len(expected),
            "missing": sorted(expected.keys() - names)[:_SHOWN],
            "unexpected": sorted(names - expected.keys() - optional)[:_SHOWN],
        }

    def shapes(self) -> dict[str, Any]:
        expected = self._expected()
        if expected is None:
            return {"unknown_architecture": self.model.architecture or "(none)"}
        present = {name: shape for name, shape in expected.items() if name in self.model.tensors}
        wrong = [
            {"name": name, "found": list(self.model.tensors[name].shape), "expected": list(shape)}
            for name, shape in present.items()
            if self.model.tensors[name].shape != shape
        ]
        return {"checked": len(present), "mismatches": wrong[:_SHOWN]}

    def tensor_list(self) -> dict[str, Any]:
        rows = [
            {"name": name, "stored_name": info.stored_name, "dtype": info.dtype, "shape": list(info.shape)}
            for name, info in self.model.tensors.items()
        ]
        return {"tensors": rows}

    def _expected(self) -> dict[str, tuple[int, ...]] | None:
        if self.model.architecture not in ARCHITECTURES:
            return None
        try:
            return expected_shapes(self.model.config)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise MalformedFile(f"the configuration does not determine the tensors: {error!r}") from error

    @functools.cached_property
    def _scan(self) -> Scan:
        return scan(self.model)

    def finite(self) -> dict[str, Any]:
        found = [{"name": name, "count": count} for name, count in self._scan.nonfinite[:_SHOWN]]
        extreme = [{"name": name, "value": f"{value:.3g}"} for name, value in self._scan.extreme[:_SHOWN]]
        return {"nonfinite": found, "extreme": extreme, "scanned": self._scan.values}

    def dead(self) -> dict[str, Any]:
        return {
            "all_zero": list(self._scan.all_zero[:_SHOWN]),
            "constant": list(self._scan.constant[:_SHOWN]),
            "scanned": self._scan.matrices,
        }

    def tied_head(self) -> dict[str, Any]:
        declared = bool(self.model.config.get("tie_word_embeddings", False))
        present = HEAD in self.model.tensors
        return {
            "declared_tied": declared,
            "head_present": present,
            "identical": declared
            and present
            and EMBEDDING in self.model.tensors
            and self._same(HEAD, EMBEDDING),
        }

    def _same(self, one: str, other: str) -> bool:
        import numpy as np

        return bool(np.array_equal(self.model.read(one), self.model.read(other)))

    # ---- tokenizer and provenance

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return tokenizer_probe.shared(self.model)

    def tokenizer(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "present": True,
            "probes": len(tokenizer_probe.PROBES),
            "round_trips": 0,
            "missing_special": [],
            "size": 0,
        }
        try:
            tokenizer = self._tokenizer
        except NotInstalled:
            raise
        except Inapplicable:
            return {**facts, "present": False}
        except MalformedFile as error:
            return {**facts, "error": error.what}
        facts["size"] = tokenizer.get_vocab_size(with_added_tokens=True)
        facts["round_trips"] = tokenizer_probe.surviving(tokenizer)
        shape = self._embedding_shape()
        rows = shape[0] if shape else facts["size"]
        facts["missing_special"] = sorted(i for i in self._special_ids() if not 0 <= i < rows)
        return facts

    def _special_ids(self) -> set[int]:
        ids: set[int] = set()
        for source in (self.model.config, self.model.generation_config):
            for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
                value = source.get(key)
                ids.update(v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int))
        return {i for i in ids if i != -1}

    def provenance(self, origin: str) -> dict[str, Any]:
        lineage = self.model.metadata.get("lineage") or {}
        return {
            "sha256": workspace.content_sha256(self.model.path),
            "origin": origin,
            "lineage": {str(name): str(value) for name, value in lineage.items()},
        }


def _invalid(config: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the values of a configuration of a known architecture."""
    faults = [
        f"{name} is {config[name]!r}, not a positive integer"
        for name in _DIMENSIONS
        if config.get(name) is not None and not (isinstance(config[name], int) and config[name] > 0)
    ]
    heads, shared = config.get("num_attention_heads"), config.get("num_key_value_heads")
    hidden, eps = config.get("hidden_size"), config.get("rms_norm_eps")
    if not faults and isinstance(heads, int) and isinstance(hidden, int):
        if not config.get("head_dim") and hidden % heads:
            faults.append(f"hidden_size {hidden} is no multiple of {heads} heads and head_dim is not given")
        if isinstance(shared, int) and (shared < 1 or heads % shared):
            faults.append(f"{heads} heads cannot share {shared} key-value heads")
    if eps is not None and not (isinstance(eps, float) and 0 < eps < 0.1):
        faults.append(f"rms_norm_eps is {eps!r}")
    return faults


class Inspect:
    """Backend that opens files and answers questions about them."""

    name = "inspect"
    formats: tuple[str, ...] = ("safetensors", "apr", "gguf")

    def unavailable(self, target: Target) -> str | None:
        return None

    def load(self, target: Target, artifact: Path, *, threads: int = 0, endpoint: str = "") -> Session:
        """Open ``artifact`` as what the target claims it to be; raises MalformedFile."""
        if target.format in FORMATS.names():
            return Inspection(unpacked(FORMATS.get(target.format).open(artifact)))
        found = sniff(artifact)
        if found is None:
            raise MalformedFile("this is none of the known formats", where=str(artifact))
        return Inspection(unpacked(found.open(artifact)))


BACKENDS.register("inspect")(Inspect())
