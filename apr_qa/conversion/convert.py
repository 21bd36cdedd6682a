"""A model in one format -> the same model in another, in all six directions.

The weights go through float32 in canonical form, one tensor at a time; what a format cannot say about
the model is refused with the way out, never dropped silently.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from apr_qa import __version__, workspace
from apr_qa.containers.gguf_writing import WRITTEN_TYPES
from apr_qa.conversion import architectures
from apr_qa.conversion.failures import ConfigContradicted, TensorNamesWrong, ValuesUnreadable
from apr_qa.conversion.rotary import WAY_OUT
from apr_qa.errors import (
    AprQaError,
    EngineMissing,
    EnvironmentFault,
    MalformedFile,
    UnsupportedArchitecture,
    UsageError,
)
from apr_qa.formats import FORMATS, ModelContent, OpenModel
from apr_qa.inference.llama_native import capture_log, last_words

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FLOATS = ("f32", "f16", "bf16")
_BUFFERS = (".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached")
"""Derived values that old checkpoints carry among their weights."""


def convert(
    source: OpenModel, format: str, destination: Path, *, quantization: str = "", source_sha256: str = ""
) -> Path:
    """Write ``source`` to ``destination`` as ``safetensors`` (a folder), ``apr`` or ``gguf`` and return it.

    ``quantization`` is the storage type: f32, f16 or bf16 for safetensors and apr (default: that of the
    tensor if it is one of these, else f32); for gguf (default f16) also q8_0 and the types that llama.cpp's
    quantiser makes, which needs llama-cpp-python. Raises UnsupportedArchitecture, UsageError,
    EngineMissing, MalformedFile (tensors that do not fit the config) or EnvironmentFault.
    """
    target = FORMATS.get(format)
    stored = quantization.lower() or ("f16" if format == "gguf" else "")
    lineage = {
        "source_format": source.format,
        "source_sha256": source_sha256 or _hash(source),
        "source_quantization": source.quantization,
        "tool": "apr-qa",
        "version": __version__,
    }
    if format == "gguf" and stored not in WRITTEN_TYPES:
        _quantise(source, destination, stored, lineage)
        return destination
    if format != "gguf" and stored not in ("", *FLOATS):
        raise UsageError(f"{format} is not written as {stored!r}", fix=f"use one of {', '.join(FLOATS)}")
    target.write(destination, content_of(source, stored, lineage))
    return destination


def content_of(source: OpenModel, dtype: str, lineage: Mapping[str, str]) -> ModelContent:
    """Return what a writer needs to store ``source`` with every tensor as ``dtype``.

    An empty ``dtype`` keeps that of each tensor, f32 in place of quantised blocks. Raises
    UnsupportedArchitecture if part of the model has no counterpart elsewhere, MalformedFile if its
    tensors are not those that its config describes.
    """
    try:
        architectures.require(source.config)
        shapes = _checked_shapes(source)
        _check_tokenizer(source)
    except AprQaError as error:
        error.where = error.where or source.path.name
        raise
    own = {name: source.tensors[name].dtype for name in shapes}
    return ModelContent(
        config=source.config,
        names=tuple(shapes),
        shapes=shapes,
        dtypes={name: dtype or (own[name] if own[name] in FLOATS else "f32") for name in shapes},
        read=_reader(source),
        tokenizer=source.tokenizer,
        tokenizer_config=source.tokenizer_config,
        generation_config=source.generation_config,
        chat_template=source.chat_template,
        lineage=dict(lineage),
    )


def _hash(source: OpenModel) -> str:
    """Return the hash of what was opened; a file of it that is gone by now would make another hash of it."""
    for file in source.files:
        if not file.is_file():
            raise EnvironmentFault("cannot be read: it is there no more", where=file.name)
    return workspace.content_sha256(source.path)


def quantise_gguf(source: Path, destination: Path, quantization: str) -> None:
    """Quantise a float GGUF with llama.cpp's own quantiser (``q4_k_m``, ``q5_k_m``, ``q6_k``, ``q4_0``, …).

    Raises UsageError for a type that llama.cpp does not make, EngineMissing, or EnvironmentFault.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise EngineMissing(
            f"{quantization} is made by llama.cpp's quantiser", fix="pip install 'apr-qa[llama]'"
        ) from error
    kind = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quantization.upper()}", None)
    if kind is None:
        raise UsageError(
            f"no GGUF type is called {quantization!r}", fix="for example q8_0, q6_k, q5_k_m or q4_k_m"
        )
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = kind
    partial = destination.with_name(f".{destination.name}.partial")
    try:
        capture_log(llama_cpp)
        code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(partial), parameters)
        if code != 0:
            raise EnvironmentFault(f"llama.cpp does not quantise it: {last_words()}", where=destination.name)
        partial.replace(destination)
    finally:
        partial.unlink(missing_ok=True)


def _quantise(source: OpenModel, destination: Path, quantization: str, lineage: Mapping[str, str]) -> None:
    # Plain float types of the source are what the quantiser would see in any conversion of it.
    exact = source.quantization if source.quantization in FLOATS else "f32"
    destination.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=destination.parent, prefix=".quantise-") as folder:
        plain = Path(folder) / destination.name
        FORMATS.get("gguf").write(plain, content_of(source, exact, lineage))
        quantise_gguf(plain, destination, quantization)


def _reader(source: OpenModel) -> Callable[[str], npt.NDArray[np.float32]]:
    def read(name: str) -> npt.NDArray[np.float32]:
        try:
            return source.read(name)
        except MalformedFile as error:
            raise ValuesUnreadable(error.what, where=error.where or name, fix=error.fix) from error

    return read


def _checked_shapes(source: OpenModel) -> dict[str, tuple[int, ...]]:
    """Return the expected shapes after comparing them with the tensors that are there."""
    expected = architectures.expected_shapes(source.config)
    missing = [name for name in expected if name not in source.tensors]
    if missing:
        raise TensorNamesWrong(f"{len(missing)} tensors are missing, {missing[0]} first")
    for name, shape in expected.items():
        if source.tensors[name].shape != shape:
            stored = list(source.tensors[name].shape)
            raise ConfigContradicted(f"the config makes {name} {list(shape)}, it is {stored}")
    # A tied head that is stored all the same is ignored by every engine.
    tied = [architectures.HEAD] if source.config.get("tie_word_embeddings") else []
    rest = [name for name in source.tensors if name not in expected and name not in tied]
    unknown = [name for name in rest if not name.endswith(_BUFFERS)]
    if unknown:
        raise UnsupportedArchitecture(f"{len(unknown)} tensors are unknown, {unknown[0]} first", fix=WAY_OUT)
    return expected


def _check_tokenizer(source: OpenModel) -> None:
    model = source.metadata.get("tokenizer.ggml.model")
    if source.tokenizer is None and model is not None:
        name = f"{model}/{source.metadata.get('tokenizer.ggml.pre', 'default')}"
        raise UnsupportedArchitecture(f"the tokenizer {name} does not convert", fix=WAY_OUT)
