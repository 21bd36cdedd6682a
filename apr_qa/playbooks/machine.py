"""State machines in both spellings: a list of states with transitions, or states that hold their transitions."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from apr_qa.playbooks.fields import Block, Listed, Switch, Text, meant
from apr_qa.playbooks.gate_names import GateId

ACTIONS: dict[str, str] = {
    "load": "load",
    "load_model": "load",
    "start": "load",
    "generate": "generate",
    "infer": "generate",
    "run": "generate",
    "run_scenario": "generate",
    "run_test": "generate",
    "chat": "chat",
    "send": "chat",
    "serve": "serve",
    "start_server": "serve",
    "stop": "stop",
    "unload": "stop",
    "cleanup": "stop",
    "shutdown": "stop",
    "reset": "stop",
    "loaded": "note",
    "record_pass": "note",
    "record_fail": "note",
    "record_crash": "note",
    "pass": "note",
    "fail": "note",
    "error": "note",
    "crash": "note",
    "done": "note",
    "complete": "note",
}
"""Word of a playbook -> what is done for it; ``note`` is written down and nothing else."""

GUARDS = ("model.is_loaded()", "is_loaded", "server.is_ready()", "is_ready")
FAILURES = ("error", "crash", "fail", "failed", "timeout")
"""Events that a healthy model does not give occasion for; transitions on them are not walked."""


class Action(Block):
    """One thing to do."""

    action: Text

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return {"action": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known(self) -> Self:
        require_action(self.action)
        return self


class Step(Block):
    """A transition of one state."""

    event: Text
    target: Text
    action: str = ""
    guards: Listed[Text] = ()

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.action:
            require_action(self.action)
        for guard in self.guards:
            if guard not in GUARDS:
                said = f"no guard is called {guard!r}; there are {', '.join(GUARDS)}"
                raise PydanticCustomError("guard", "{said}", {"said": said, "under": ("guards",)})
        return self


class State(Block):
    """What happens in one state, and where it leads."""

    on_enter: Listed[Action] = ()
    on_exit: Listed[Action] = ()
    transitions: Listed[Step] = ()


class Transition(Block):
    """A transition between two named states."""

    from_: Text = Field(alias="from")
    to: Text
    action: str = ""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.action:
            require_action(self.action)
        return self


class StateMachine(Block):
    """States that a model is taken through for real: load, generate, chat, serve, stop."""

    enabled: Switch = True
    """False switches the block off."""
    initial: str = ""
    """Default: the first state."""
    states: dict[str, State | None] | Listed[Text]
    transitions: Listed[Transition] = ()
    """Where ``states`` is a list of names."""
    gates: Listed[GateId] = ()

    @model_validator(mode="before")
    @classmethod
    def _default_states(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("states") is None:
            return {**value, "states": ["idle"]}
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.enabled:
            return self
        names = list(self.states)
        if self.initial and self.initial not in names:
            raise _no_state(self.initial, names, ("initial",))
        for source, _, target, _ in self.edges:
            for name in (source, target):
                if name not in names:
                    raise _no_state(name, names, ("states",))
        lost = sorted(set(names) - self._reachable())
        if lost:
            said = f"the state {lost[0]!r} cannot be reached from {self.start!r}"
            raise PydanticCustomError("unreachable", "{said}", {"said": said, "under": ("states",)})
        return self

    @property
    def start(self) -> str:
        return self.initial or next(iter(self.states), "")

    @property
    def edges(self) -> tuple[tuple[str, str, str, str], ...]:
        """All transitions: from, event, to, action (empty: none)."""
        found = [(t.from_, t.action or "next", t.to, t.action) for t in self.transitions]
        if isinstance(self.states, dict):
            for name, state in self.states.items():
                found += [(name, s.event, s.target, s.action) for s in (state or State()).transitions]
        return tuple(found)

    @property
    def entries(self) -> dict[str, tuple[str, ...]]:
        """What is done on entering each state."""
        if not isinstance(self.states, dict):
            return {}
        return {name: tuple(a.action for a in (s or State()).on_enter) for name, s in self.states.items()}

    @property
    def exits(self) -> dict[str, tuple[str, ...]]:
        """What is done on leaving each state."""
        if not isinstance(self.states, dict):
            return {}
        return {name: tuple(a.action for a in (s or State()).on_exit) for name, s in self.states.items()}

    def _reachable(self) -> set[str]:
        seen, left = {self.start}, [self.start]
        while left:
            here = left.pop()
            for source, _, target, _ in self.edges:
                if source == here and target not in seen:
                    seen.add(target)
                    left.append(target)
        return seen


def require_action(word: str) -> str:
    """Return the action that a word means; raises the error that pydantic reports with its place."""
    if word not in ACTIONS:
        said = f"no action is called {word!r}{meant(word, ACTIONS)}; there are {', '.join(ACTIONS)}"
        raise PydanticCustomError("action", "{said}", {"said": said})
    return ACTIONS[word]


def _no_state(name: str, names: list[str], under: tuple[str, ...]) -> PydanticCustomError:
    said = f"no state is called {name!r}{meant(name, names)}"
    return PydanticCustomError("state", "{said}", {"said": said, "under": under})
