"""Model and tokenizer of an opened SafeTensors or APR artifact, as transformers builds them.

A SafeTensors directory goes the way its users go (``from_pretrained``, local files only, no code of the
artifact); an APR file, or one SafeTensors file of another name, is read by its format and handed over as a
state dict. A weight that is missing or has the wrong shape is an error, never re-initialised. The dtype is
the stored one, except float16 on a CPU, which computes as float32.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apr_qa.containers.packed_weights import Unpacked, unpacked
from apr_qa.errors import EngineMissing, InferenceFailed
from apr_qa.formats import OpenModel

INSTALL = "pip install 'apr-qa[torch]'"
_WHOLE_FILE = "model.safetensors"
_FLOATS = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
_PLAIN = {"apr": _FLOATS, "safetensors": _FLOATS}
"""Format that stores values in rows -> stored type -> torch's type of the same bits."""


@contextlib.contextmanager
def blamed_on_engine(doing: str) -> Iterator[None]:
    """Turn what transformers and torch raise into InferenceFailed with the first line of the message."""
    from safetensors import SafetensorError

    try:
        yield
    except ImportError as error:
        raise EngineMissing(f"{doing} needs a package that is not installed: {error}", fix=INSTALL) from error
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        OSError,
        RuntimeError,
        SafetensorError,
        TypeError,
        ValueError,
    ) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InferenceFailed(f"{doing} failed: {lines[0]}") from error


def _dtype(opened: OpenModel, device: str) -> Any:
    """Return the dtype to compute in: the stored one; what torch has no type for is dequantised."""
    import torch

    known = {"bf16": torch.bfloat16, "f16": torch.float16 if device == "cuda" else torch.float32}
    return known.get(opened.quantization, torch.float32)


def _is_directory_export(opened: OpenModel) -> bool:
    return opened.format == "safetensors" and (opened.path.is_dir() or opened.path.name == _WHOLE_FILE)


def load_model(opened: OpenModel, device: str) -> Any:
    """Return the model in evaluation mode on ``device``; InferenceFailed names weights that do not fit."""
    import transformers

    # GPTQ, FP8 and bitsandbytes need packages of their own, most of them a GPU: their values are decoded here.
    opened = unpacked(opened)
    dtype = _dtype(opened, device)
    if isinstance(opened, Unpacked) or not _is_directory_export(opened):
        return _model_of_state_dict(opened, dtype).to(device)
    # Typed as Any: the annotations of transformers do not know what output_loading_info returns.
    builder: Any = transformers.AutoModelForCausalLM
    model, info = builder.from_pretrained(
        _folder(opened.path),
        dtype=dtype,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # they are reported below, all at once
        output_loading_info=True,
    )
    _require_complete(info, unexpected=False)
    return model.to(device)


def _model_of_state_dict(opened: OpenModel, dtype: Any) -> Any:
    from transformers import AutoConfig, GenerationConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    settings = {key: value for key, value in opened.config.items() if key != "model_type"}
    config = AutoConfig.for_model(opened.architecture, **settings)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InferenceFailed(f"transformers has no causal language model for {opened.architecture!r}")
    weights = _weights(opened, dtype)
    builder: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model, info = builder.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=dtype,
        local_files_only=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    _require_complete(info, unexpected=True)
    if opened.generation_config:
        model.generation_config = GenerationConfig.from_dict(opened.generation_config)
    return model


def _weights(opened: OpenModel, dtype: Any) -> dict[str, Any]:
    """Return the tensors to compute with: mapped where the file holds them as they are needed, decoded elsewhere.

    Processes that run one file at the same time have the mapped ones in memory once. The map is private: what somebody
    writes to a weight never reaches the file.
    """
    import numpy as np
    import torch

    maps: dict[Path, Any] = {}

    def weight(name: str) -> Any:
        info = opened.tensors[name]
        plain = _PLAIN.get(opened.format, {}).get(info.dtype, "")
        # Under another name than its own a tensor may lie there in another order.
        if not plain or dtype != getattr(torch, plain) or info.stored_name != name or not info.size:
            # torch warns about arrays that it must not write to.
            return torch.from_numpy(np.require(opened.read(name), requirements=["C", "W"])).to(dtype)
        if info.file not in maps:
            size = info.file.stat().st_size
            maps[info.file] = torch.from_file(str(info.file), shared=False, size=size, dtype=torch.uint8)
        stored = maps[info.file][info.offset : info.offset + info.size]
        if info.offset % dtype.itemsize:
            stored = stored.clone()
        return stored.view(dtype).reshape(info.shape)

    return {name: weight(name) for name in opened.tensors}


def _require_complete(info: dict[str, Any], *, unexpected: bool) -> None:
    """Raise InferenceFailed naming the weights that do not fit the model that the config describes."""
    faults = {
        "missing": sorted(info["missing_keys"]),
        "of another shape": sorted(str(key[0]) for key in info["mismatched_keys"]),
        "unexpected": sorted(info["unexpected_keys"]) if unexpected else [],
        "unreadable": sorted(info["error_msgs"]),
    }
    told = [
        f"{len(names)} {kind}: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
        for kind, names in faults.items()
        if names
    ]
    if told:
        raise InferenceFailed(f"the weights do not fit the config: {'; '.join(told)}")


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def load_tokenizer(opened: OpenModel) -> Any:
    """Load by transformers' own rules; what is stored inside one file is laid out as a directory first."""
    from transformers import AutoTokenizer

    if opened.format == "safetensors":
        if opened.tokenizer is None and not _has_vocabulary(_folder(opened.path)):
            # Left alone, transformers makes up a tokenizer of the configured class without any vocabulary.
            raise InferenceFailed("the artifact has no tokenizer")
        return AutoTokenizer.from_pretrained(
            _folder(opened.path), local_files_only=True, trust_remote_code=False
        )
    if opened.tokenizer is None:
        raise InferenceFailed("the artifact has no tokenizer")
    with tempfile.TemporaryDirectory(prefix="apr-qa-tokenizer-") as directory:
        contents = {
            "tokenizer.json": opened.tokenizer,
            "tokenizer_config.json": opened.tokenizer_config,
            "config.json": {**opened.config, "model_type": opened.architecture},
        }
        for name, content in contents.items():
            (Path(directory) / name).write_text(json.dumps(content), encoding="utf-8")
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def _has_vocabulary(folder: Path) -> bool:
    """Say whether a folder holds a vocabulary in one of the forms that came before tokenizer.json."""
    return any(
        (folder / name).is_file() for name in ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
    )
