"""JSON Schemas of every file that a person or another program may read: playbook, family, evidence, certificate.

``python -m apr_qa.schemas`` writes them to ``schemas/`` of the working directory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def evidence() -> dict[str, Any]:
    """Return the schema of one line of an evidence file: the header, which comes first, or an entry."""
    import msgspec

    from apr_qa.vocabulary import Evidence, EvidenceHeader

    (header, entry), parts = msgspec.json.schema_components((EvidenceHeader, Evidence))
    return {
        "$schema": DIALECT,
        "$id": "urn:apr-qa:schema:evidence",
        "title": "apr-qa evidence line",
        "description": "A line of evidence.jsonl: the first is the header, each other one is an entry.",
        "oneOf": [header, entry],
        "$defs": parts,
    }


def certificate() -> dict[str, Any]:
    """Return the schema of ``certificate.json``."""
    from apr_qa.certificate import Certificate

    described = Certificate.model_json_schema(mode="serialization")
    return {
        "$schema": DIALECT,
        "$id": "urn:apr-qa:schema:certificate",
        **described,
        "title": "apr-qa certificate",
    }


def family() -> dict[str, Any]:
    """Return the schema of a family contract."""
    from apr_qa.families.contract import Family
    from apr_qa.playbooks.described import Described

    return {
        "$schema": DIALECT,
        "$id": "urn:apr-qa:schema:family",
        **Family.model_json_schema(schema_generator=Described),
        "title": "apr-qa family contract",
    }


def documents() -> dict[str, str]:
    """Return file name -> content of every schema."""
    from apr_qa import playbook

    generated = {
        "playbook": playbook.schema(),
        "family": family(),
        "evidence": evidence(),
        "certificate": certificate(),
    }
    return {
        f"{name}.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in generated.items()
    }


def write(folder: Path) -> None:
    """Write every schema to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path("schemas"))
