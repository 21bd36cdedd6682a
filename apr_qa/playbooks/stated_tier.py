"""The tier that a playbook states without a field for it: in its metadata or at the end of its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from apr_qa.vocabulary import Tier

_MEANING = {
    **{str(tier): tier for tier in Tier},
    "full": Tier.DEEP,
    "nightly": Tier.DEEP,
    "release": Tier.DEEP,
    "full-qualification": Tier.DEEP,
    "quick-check": Tier.QUICK,
    "ci-pipeline": Tier.CI,
    "mvp-certification": Tier.MVP,
    "basic-verify": Tier.SMOKE,
}
_ENDING = re.compile(rf"(?:^|[-._])({'|'.join(sorted(map(re.escape, _MEANING), key=len, reverse=True))})$")


def said(fields: Mapping[str, Any]) -> str:
    """Return the tier that ``metadata.tier`` or the name states, or nothing.

    >>> said({"name": "qwen2.5-coder-7b-mvp"}), said({"name": "llama-3.2-1b"})
    ('mvp', '')
    """
    metadata = fields.get("metadata")
    stated = str(metadata.get("tier", "")) if isinstance(metadata, Mapping) else ""
    if stated in _MEANING:
        return str(_MEANING[stated])
    ending = _ENDING.search(str(fields.get("name", "")))
    return str(_MEANING[ending[1]]) if ending else ""
