"""State machines in both spellings: a list of states with transitions, or states that hold their transitions."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from apr_qa.playbooks.fields import Block, Listed, Switch, Text, meant
from apr_qa.playbooks.gate_names import GateId

ACTIONS: dict[str, str] = {
    word: meaning
    for meaning, words in {
        "load": "load load_model start pull pull_model open",
        "generate": "generate infer inference run run_scenario run_test run_tests run_inference execute test",
        "chat": "chat send",
        "serve": "serve start_server",
        "stop": "stop unload unload_model cleanup shutdown stop_server reset close",
        "note": "loaded record_pass record_fail record_crash record_evidence record_result record_timeout record "
        "pass fail error crash done complete start_timer stop_timer stop_line log log_error log_result notify report "
        "save_evidence convert inspect validate check",
    }.items()
    for word in words.split()
}
"""Word of a playbook -> what is done for it; ``note`` is written down and nothing else."""

GUARDS = (
    *(
        "model.is_loaded()",
        "is_loaded",
        "model_loaded",
        "loaded",
        "server.is_ready()",
        "is_ready",
        "server_ready",
    ),
    *("ready", "exit_code == 0", "all_gates_passed", "!error", "no_error"),
)
"""Conditions that hold wherever the step before went well; a step that fails ends the walk."""
FAILURES = ("error", "crash", "fail", "failed", "timeout")
"""Words for what a healthy model gives no occasion for; transitions on such events are not walked."""
_CALL = re.compile(r"(\w+)\s*\(.*\)", re.DOTALL)
_COMMAND = re.compile(r"apr(?:-qa)?\s+(\w+)\b.*", re.DOTALL)


def meaning(text: str) -> str:
    """Return what is done for an action: a word, a call such as ``record_evidence('x')``, or a line ``apr run …``.

    >>> meaning("unload_model"), meaning("apr pull org/name"), meaning("dance")
    ('stop', 'load', '')
    """
    said = text.strip()
    found = _CALL.fullmatch(said) or _COMMAND.fullmatch(said)
    return ACTIONS.get((found[1] if found else said).lower(), "")


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
    states: Annotated[
        Annotated[dict[str, State | None], Tag("block")] | Annotated[Listed[Text], Tag("list")],
        Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "block"),
    ]
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

    @property
    def words(self) -> dict[str, str]:
        """What is done for each action that is named."""
        done = (
            word for by_state in (self.entries, self.exits) for words in by_state.values() for word in words
        )
        named = (*done, *(action for *_, action in self.edges if action))
        return {text: meaning(text) for text in dict.fromkeys(named)}

    @property
    def failures(self) -> tuple[str, ...]:
        """The words for failures, and every event here that holds one of them."""
        events = (event for _, event, _, _ in self.edges)
        failing = (event for event in events if set(re.split(r"[\W_]+", event.lower())) & set(FAILURES))
        return tuple(dict.fromkeys((*FAILURES, *failing)))

    def _reachable(self) -> set[str]:
        seen, left = {self.start}, [self.start]
        while left:
            here = left.pop()
            for source, _, target, _ in self.edges:
                if source == here and target not in seen:
                    seen.add(target)
                    left.append(target)
        return seen


def require_action(text: str) -> None:
    """Raise the error that pydantic reports with its place, unless the action means something."""
    if not meaning(text):
        said = f"no action is called {text!r}{meant(text, ACTIONS)}; there are {', '.join(ACTIONS)}"
        raise PydanticCustomError("action", "{said}", {"said": said})


def _no_state(name: str, names: list[str], under: tuple[str, ...]) -> PydanticCustomError:
    said = f"no state is called {name!r}{meant(name, names)}"
    return PydanticCustomError("state", "{said}", {"said": said, "under": under})
