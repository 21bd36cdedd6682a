"""The file of a specimen that holds its weights."""

from __future__ import annotations

from pathlib import Path

from apr_qa.defects import Inexpressible, Specimen


def weights(specimen: Specimen) -> Path:
    """Return the file with weights: the specimen itself, or the largest of its folder."""
    if specimen.path.is_file():
        return specimen.path
    files = sorted(specimen.path.glob("*.safetensors"), key=lambda file: (file.stat().st_size, file.name))
    if not files:
        raise Inexpressible("needs a file with weights")
    return files[-1]
