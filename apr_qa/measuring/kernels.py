"""The kernel class of a file from its header, and whether a stored run proves it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apr_qa import kernel_proof
from apr_qa.comparison.session import open_model
from apr_qa.families.file_facts import kernel_facts
from apr_qa.families.kernels import class_of, kernel_class


def kernels(params: Mapping[str, Any], artifact: Path, format_name: str) -> dict[str, Any]:
    """Return operations and class of a file, the class that its model is listed with, and a proof of it.

    ``params``: ``model``, ``folders``, where runs are stored, and ``proof``, the one model whose run counts.
    """
    found = kernel_facts(open_model(artifact, format_name))
    listed = class_of(str(params["model"]))
    facts = {**found, "listed": listed.name if listed else "", "proof": None, "command": ""}
    if found["kernel_class"]:
        known = kernel_class(found["kernel_class"])
        facts["proof"] = kernel_proof.find(known, params.get("folders", ()), str(params.get("proof", "")))
        facts["command"] = kernel_proof.command(known)
    return facts
