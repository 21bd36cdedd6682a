"""A model taken through the states of a playbook: loaded, asked, talked to, served, stopped, loaded again.

Every action is done for real, with a copy of the model that nobody else uses. What an action leads to is an
event (``loaded`` or ``error``, ``pass`` or ``fail``); transitions on other events are commands, taken one
after the other until each was walked or none is left. Transitions on failures are not walked: a healthy model
gives no occasion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from apr_qa.backends import BACKENDS, Request, Session
from apr_qa.errors import AprQaError
from apr_qa.vocabulary import Artifact, Target

PROMPT = "What is 2 + 2? The answer is"
MOST_STEPS = 200

Edge = Sequence[str]
"""From, event, to, action."""


class Lifecycle:
    """The model under way."""

    def __init__(self, target: Target, artifact: Artifact) -> None:
        self.target = target
        self.artifact = artifact
        self.session: Session | None = None
        self.loads = 0

    def load(self) -> str:
        """Load the model, giving up a copy that is loaded already."""
        self.stop()
        self.session = BACKENDS.get(self.target.engine).load(self.target, Path(self.artifact.path))
        self.loads += 1
        return "loaded"

    def generate(self) -> str:
        """Continue a text; ``pass`` if there is one."""
        (response,) = self._loaded().generate([Request(PROMPT, max_tokens=8)])
        return "pass" if (response.text or "").strip() else "fail"

    def chat(self) -> str:
        """Answer a user turn."""
        response = self._loaded().chat([{"role": "user", "content": "What is 2 + 2?"}], max_tokens=8)
        return "pass" if (response.text or "").strip() else "fail"

    def serve(self) -> str:
        """Stream an answer, as a server does for its clients."""
        return "pass" if "".join(self._loaded().stream(Request(PROMPT, max_tokens=8))).strip() else "fail"

    def stop(self) -> str:
        """Give the model up."""
        if self.session is not None:
            self.session.close()
            self.session = None
        return "stopped"

    def _loaded(self) -> Session:
        if self.session is None:
            self.load()
        assert self.session is not None  # noqa: S101 - load raises or sets it
        return self.session


def walk(params: Mapping[str, Any], target: Target, artifact: Artifact) -> dict[str, Any]:
    """Return what was walked: ``steps``, ``failed`` (step and reason) and ``left`` (transitions not walked).

    ``params``: start, edges, entries, exits, actions (word -> load, generate, chat, serve, stop, note), failures.
    """
    model = Lifecycle(target, artifact)
    doing: dict[str, Callable[[], str]] = {
        "load": model.load,
        "generate": model.generate,
        "chat": model.chat,
        "serve": model.serve,
        "stop": model.stop,
        "note": lambda: "",
    }
    walker = _Walker(params, doing)
    try:
        walker.run()
    finally:
        model.stop()
    return {**walker.facts(), "loads": model.loads}


class _Walker:
    def __init__(self, params: Mapping[str, Any], doing: Mapping[str, Callable[[], str]]) -> None:
        self.edges: list[Edge] = [tuple(edge) for edge in params["edges"]]
        self.entries, self.exits = dict(params["entries"]), dict(params["exits"])
        self.words, self.failures = dict(params["actions"]), set(params["failures"])
        self.doing = doing
        self.start = self.state = str(params["start"])
        self.steps: list[str] = []
        self.failed: list[str] = []
        self.walked: set[int] = set()

    def run(self) -> None:
        """Walk until every transition that is no failure was walked, something fails, or nothing leads on."""
        event = self._enter(self.state)
        while len(self.steps) < MOST_STEPS and not self.failed:
            index = self._next(event)
            if index is None:
                return
            event = self._take(index)

    def facts(self) -> dict[str, Any]:
        within = self._healthy_states()
        wanted = [i for i, edge in enumerate(self.edges) if self._healthy(i) and edge[0] in within]
        left = [" ".join(self.edges[i][:3]) for i in wanted if i not in self.walked]
        skipped = [" ".join(edge[:3]) for i, edge in enumerate(self.edges) if i not in wanted]
        return {"steps": self.steps, "failed": self.failed, "left": left, "not_provoked": skipped}

    def _healthy_states(self) -> set[str]:
        """Return the states that can be reached without a failure."""
        seen, left = {self.start}, [self.start]
        while left:
            here = left.pop()
            for i, edge in enumerate(self.edges):
                if edge[0] == here and self._healthy(i) and edge[2] not in seen:
                    seen.add(edge[2])
                    left.append(edge[2])
        return seen

    def _healthy(self, index: int) -> bool:
        _, event, _, action = self.edges[index]
        return event not in self.failures and action.removeprefix("record_") not in self.failures

    def _next(self, event: str) -> int | None:
        """Return the transition that the event calls for, else the first on the way to an unwalked one."""
        here = [i for i, edge in enumerate(self.edges) if edge[0] == self.state and self._healthy(i)]
        called = [i for i in here if event and self.edges[i][1] == event]
        if called:
            return called[0]
        fresh = [i for i in here if i not in self.walked]
        return fresh[0] if fresh else self._towards_unwalked(here)

    def _towards_unwalked(self, here: Sequence[int]) -> int | None:
        queue, seen = deque((i, self.edges[i][2]) for i in here), set()
        while queue:
            first, state = queue.popleft()
            if state in seen:
                continue
            seen.add(state)
            onward = [i for i, e in enumerate(self.edges) if e[0] == state and self._healthy(i)]
            if any(i not in self.walked for i in onward):
                return first
            queue.extend((first, self.edges[i][2]) for i in onward)
        return None

    def _take(self, index: int) -> str:
        source, event, target, action = self.edges[index]
        self.walked.add(index)
        self.steps.append(f"{source} --{event}--> {target}")
        for word in self.exits.get(source, ()):
            self._do(word)
        given = self._do(action) if action else ""
        self.state = target
        return self._enter(target) or given

    def _enter(self, state: str) -> str:
        given = ""
        for word in self.entries.get(state, ()):
            given = self._do(word) or given
        return given

    def _do(self, word: str) -> str:
        try:
            event = self.doing[self.words[word]]()
        except AprQaError as failure:
            self.failed.append(f"{word} in state {self.state}: {failure.what}")
            return "error"
        if event == "fail":
            self.failed.append(f"{word} in state {self.state}: an empty answer")
        return event
