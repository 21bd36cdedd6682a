"""A derived artifact and its parents: one session that answers every check with facts.

What the playbook does not name, or names in vain, makes facts with ``unmeasured``; what a criterion asks of its
caller and was not given makes ``missing``. Neither is ever a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from apr_qa.backends import Mute
from apr_qa.comparison.tokenizer import tokenizer_differences
from apr_qa.derivation import (
    adapters,
    behaviour,
    merging,
    reports,
    scores,
    speculation,
    storage,
    training_log,
)
from apr_qa.derivation.made import completed
from apr_qa.derivation.members import Member, Unmeasured, file_of, find, own_member
from apr_qa.errors import (
    AprQaError,
    EngineMissing,
    EnvironmentFault,
    MalformedFile,
    UnsupportedArchitecture,
    UsageError,
)
from apr_qa.vocabulary import Artifact


class Derivation(Mute):
    """Answers what is asked about ``artifact`` and what it was derived from."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self._members: dict[str, Member] = {}

    def facts(self, check: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return the facts of one check; raises UsageError for a check that does not exist.

        ``params['derivation']``: kind, parents, recipe, and for criteria artifact and asks.
        """
        if check not in _CHECKS:
            raise UsageError(
                f"no check of derivations is called {check!r}", fix=f"one of {', '.join(_CHECKS)}"
            )
        stated: Mapping[str, Any] = params["derivation"]
        said: dict[str, Any] = {}
        if stated.get("makes"):
            stated, said = self._made(stated)
        elif stated.get("asks"):
            said = {"missing": _not_given(stated)}
        if "missing" in said or "unmeasured" in said:
            return said
        asked = Asked(self, stated)
        try:
            found = _CHECKS[check](asked)
            return {**found, **said, "models": [member.described() for member in asked.used]}
        except EngineMissing as error:
            return {"missing": error.what}
        except (Unmeasured, EnvironmentFault) as lack:
            return {"unmeasured": str(lack), "models": [member.described() for member in asked.used]}

    def _made(self, stated: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """Return what is stated with derivatives made on the spot, and ``made``, or why there are none."""
        try:
            whole, words = completed(stated, self.member(""))
        except (Unmeasured, EngineMissing, UnsupportedArchitecture, UsageError) as lack:
            return stated, {"missing": f"{_not_given(stated)}; none is made on the spot: {lack}"}
        except AprQaError as error:
            return stated, {"unmeasured": f"nothing can be made of the model: {error.what}"}
        return whole, {"made": words}

    def member(self, text: str) -> Member:
        """Return a model by what the playbook calls it; empty: the artifact of the run."""
        if text not in self._members:
            self._members[text] = find(text) if text else own_member(self.artifact)
        return self._members[text]


def _not_given(stated: Mapping[str, Any]) -> str:
    return f"not given: {', '.join(f'--var {name}=…' for name in stated['asks'])}"


class Asked:
    """One derivation as it is asked about: its models are opened when a check wants them."""

    def __init__(self, session: Derivation, stated: Mapping[str, Any]) -> None:
        self._session = session
        self._stated = stated
        self.recipe: Mapping[str, Any] = stated.get("recipe") or {}
        self.used: list[Member] = []

    def _use(self, text: str) -> Member:
        member = self._session.member(text)
        if member not in self.used:
            self.used.append(member)
        return member

    @property
    def child(self) -> Member:
        return self._use(str(self._stated.get("artifact") or ""))

    @property
    def parents(self) -> list[Member]:
        return [self._parent(str(text)) for text in self._stated.get("parents") or () if text]

    def _parent(self, text: str) -> Member:
        try:
            return self._use(text)
        except MalformedFile as error:  # which speaks against the parent
            raise Unmeasured(f"the parent {text} cannot be opened: {error.what}") from None

    @property
    def base(self) -> Member:
        """The model that task vectors start from, or that an adapter was trained on."""
        named = str(self.recipe.get("base") or "")
        if named:
            return self._parent(named)
        if self._stated["kind"] == "ties":
            raise Unmeasured("the recipe names no base that the task vectors start from")
        if not self.parents:
            raise Unmeasured("the playbook names no parent that the adapter was trained on")
        return self.parents[0]

    def file(self, name: str) -> Path:
        return file_of(self.recipe.get(name), name.replace("_", " "))


def _tokenizer(asked: Asked) -> dict[str, Any]:
    if not asked.parents:
        raise Unmeasured("the playbook names no parent")
    parent = asked.parents[0]
    return {"parent": parent.name, **tokenizer_differences(parent.model, asked.child.model)}


def _density(asked: Asked) -> dict[str, Any]:
    promised = asked.recipe.get("density")
    if not isinstance(promised, int | float) or not 0 < promised < 1:
        raise Unmeasured("the recipe states no density between 0 and 1")
    return merging.density(asked.child, asked.parents, asked.base, float(promised))


def _adapter(asked: Asked) -> adapters.Adapter:
    return adapters.read_adapter(asked.file("adapter"))


def _zero_adapter(asked: Asked) -> dict[str, Any]:
    named = asked.recipe.get("initial_adapter")
    initial = adapters.read_adapter(asked.file("initial_adapter")) if named else None
    return adapters.zero_adapter(asked.base, asked.child, _adapter(asked), initial)


def _unchanged(asked: Asked) -> dict[str, Any]:
    named = str(asked.recipe.get("pristine") or "")
    pristine = asked._session.member(named) if named else None
    return adapters.unchanged(asked.base, pristine, str(asked.recipe.get("base_sha256") or ""))


def _memory(asked: Asked) -> dict[str, Any]:
    own = adapters.read_adapter(asked.file("adapter")).rank if asked.recipe.get("adapter") else None
    return training_log.memory(asked.file("log"), asked.file("lora_log"), own)


def _speculative(asked: Asked) -> dict[str, Any]:
    if not asked.parents:
        raise Unmeasured("the playbook names no target that the artifact drafts for")
    return speculation.speculative(asked.child, asked.parents[0], asked.recipe)


_CHECKS: Mapping[str, Callable[[Asked], dict[str, Any]]] = {
    "tensor_set": lambda a: merging.tensor_sets(a.child, a.parents),
    "architecture": lambda a: merging.architectures(a.child, a.parents),
    "tokenizer": _tokenizer,
    "score": lambda a: behaviour.scores(a.child, a.parents, a.recipe),
    "norms": lambda a: merging.norms(a.child, a.parents),
    "sign_conflicts": lambda a: merging.sign_conflicts(a.child, a.parents, a.base),
    "density": _density,
    "sparsity": lambda a: storage.sparsity(
        a.child, a.parents, a.recipe.get("sparsity"), str(a.recipe.get("scope") or "linear")
    ),
    "perplexity": lambda a: behaviour.perplexities(a.child, a.parents, a.recipe.get("text")),
    "better_than_untrained": lambda a: behaviour.perplexities(a.child, a.parents, a.recipe.get("text")),
    "size": lambda a: storage.size(a.child, a.parents),
    "points": lambda a: scores.points(a.child, a.parents, a.recipe),
    "zero_adapter": _zero_adapter,
    "merged_adapter": lambda a: adapters.merged_adapter(a.base, a.child, _adapter(a)),
    "base_unchanged": _unchanged,
    "loss": lambda a: training_log.loss(a.file("log"), a.recipe.get("epochs")),
    "memory": _memory,
    "speculative": _speculative,
    "compound": lambda a: scores.compound(a.child, a.recipe),
    "contamination": lambda a: reports.contaminated(a.recipe),
    "distinct": lambda a: behaviour.distinct(a.child, a.recipe),
    "reasoning": lambda a: behaviour.reasoning(a.child, a.recipe),
    "tool": lambda a: reports.tool(a.recipe),
}


def derived(_: Artifact, artifact: Artifact) -> Derivation:
    """Return the session; models are opened by the checks, so that one that is absent harms no other claim."""
    return Derivation(artifact)
