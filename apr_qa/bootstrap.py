"""A playbook for one model, written from its family contract: dimensions, kernel profile, fitting questions."""

from __future__ import annotations

from typing import Any

from apr_qa.families import kernels
from apr_qa.families.contract import Family, Size, family, member
from apr_qa.ledger_row import size_category
from apr_qa.playbooks.model import BUDGET_S
from apr_qa.vocabulary import FORMATS, Model, Tier

FOLDER = "playbooks/models"
BASIC = 4
"""Questions that every run begins with; see ``scenarios.basic_claims``."""
COUNTS = {Tier.SMOKE: 3, Tier.QUICK: 10, Tier.CI: 25, Tier.STANDARD: 25, Tier.DEEP: 100}
QUANTIZATIONS = {
    Tier.STANDARD: ("f16", "q8_0", "q4_k_m"),
    Tier.DEEP: ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_0", "q4_k_m", "q4_0"),
}
TIMEOUT_MS = {
    "tiny": 60_000,
    "small": 60_000,
    "medium": 120_000,
    "large": 180_000,
    "xlarge": 300_000,
    "huge": 600_000,
}
_GATEWAYS = (
    ("G0", "The file is what it says"),
    ("G1", "It loads"),
    ("G2", "It answers"),
    ("G3", "Nothing crashes"),
    ("G4", "The answers are no garbage"),
)


def playbook(contract: Family, size_name: str, hf_repo: str, tier: Tier) -> str:
    """Return the YAML text of a playbook; raises UsageError for a size that the family does not have."""
    known = member(hf_repo)
    size = contract.size(size_name)
    if known is not None and known[0] is contract and known[1].size == size_name:
        size = contract.of_model(known[1])
    profile = kernels.profile(contract, size)
    fields = _fields(contract, size_name, size, hf_repo, tier, profile)
    found = kernels.class_with(profile.kernel_ops)
    head = [
        "# yaml-language-server: $schema=../../schemas/playbook.schema.json",
        f"# {hf_repo}, tier {tier}; made by: apr-qa bootstrap {contract.family} {size_name} --hf-repo {hf_repo}"
        f" --tier {tier}",
        f"# Kernel class {found.name if found else '- (none of the documented ones)'}: {', '.join(profile.kernel_ops)}",
    ]
    return "\n".join(head) + "\n" + _dumped(fields)


def of_model(model: Model, tier: Tier) -> tuple[str, str]:
    """Return path and text of the playbook of a model of the registry; raises UsageError for another one."""
    known = member(model.id)
    if known is None:
        contract = family(model.family)  # names what is known
        return path_of(model.id, tier), playbook(contract, "", model.id, tier)
    return path_of(model.id, tier), playbook(known[0], known[1].size, known[1].id, tier)


def path_of(model_id: str, tier: Tier) -> str:
    """Return where the playbook of a model is looked for."""
    return f"{FOLDER}/{Model(id=model_id).slug}.{tier}.yaml"


def _fields(
    contract: Family, size_name: str, size: Size, hf_repo: str, tier: Tier, profile: kernels.Profile
) -> dict[str, Any]:
    category = size_category(size.parameters)
    headers = tier is Tier.DIM_SMOKE
    quick = tier in (Tier.DIM_SMOKE, Tier.SMOKE)
    scenarios = [] if quick else [dict(one) for one in profile.scenarios]
    fields: dict[str, Any] = {
        "name": f"{Model(id=hf_repo).slug}.{tier}",
        "version": "1.0.0",
        "description": f"{contract.display_name} {size.parameters} of {contract.vendor}, tier {tier}",
        "tier": str(tier),
        "model": {
            "hf_repo": hf_repo,
            "formats": ["safetensors"] if quick else list(FORMATS),
            "quantizations": list(QUANTIZATIONS.get(tier, ("f16",))),
            "size_category": category,
            "family": contract.family,
            "size_variant": size_name,
            **{f"expected_{name}": value for name, value in size.dimensions.items()},
        },
        "test_matrix": {
            "modalities": [] if headers else ["run"] if tier is Tier.SMOKE else ["run", "chat", "serve"],
            "backends": ["cpu"] if quick or tier is Tier.CI else ["cpu", "gpu"],
            "scenario_count": 0
            if headers
            else max(COUNTS.get(tier, 0), BASIC + len(scenarios) if scenarios else 3),
            "seed": 42,
            "timeout_ms": TIMEOUT_MS[category],
        },
        "kernel_profile": {
            "family": profile.family,
            "kernel_ops": list(profile.kernel_ops),
            "prompt_count": len(scenarios),
            "long_context": profile.long_context,
        },
        "falsification_gates": [
            {"id": gate, "description": said, "severity": "P0"} for gate, said in _GATEWAYS
        ],
    }
    return {**fields, **_more(contract, size, tier, scenarios, quick=quick)}


def _more(
    contract: Family, size: Size, tier: Tier, scenarios: list[dict[str, Any]], *, quick: bool
) -> dict[str, Any]:
    """Return what only a tier that infers asks, and when it stops."""
    found: dict[str, Any] = {}
    if scenarios:
        found["scenarios"] = scenarios
    if not quick:
        checks = ["dtype_mapping", "tensor_alignment", "header_integrity"]
        found["differential_tests"] = {"format_validation": {"enabled": True, "checks": checks}}
        found["contract_tests"] = {"invariants": ["I-1", "I-2", "I-3", "I-4", "I-5"]}
        found["profile_ci"] = {"enabled": True, "warmup": 1, "measure": 3}
    found["failure_policy"] = "collect_all" if tier in (Tier.CI, Tier.STANDARD, Tier.DEEP) else "stop_on_p0"
    found["budget_s"] = int(BUDGET_S[tier])
    found["metadata"] = {"architecture": contract.architectures[0], "parameters": size.parameters}
    return found


def _dumped(fields: dict[str, Any]) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes short lists in one line."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    def listed(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
        flat = all(isinstance(value, str | int) for value in values)
        return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=flat)

    Dumper.add_representer(list, listed)
    return yaml.dump(fields, Dumper=Dumper, sort_keys=False, width=110, allow_unicode=True)
