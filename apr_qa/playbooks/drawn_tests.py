"""Named tests that draw their own questions: ``arithmetic(a: 1..10, b: 1..10, op: +|-)`` and the like."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from apr_qa.playbooks import generators
from apr_qa.playbooks.fields import Block, Switch, Text, Whole, meant

LANGUAGES = {"js": "javascript", "py": "python", "golang": "go", "rs": "rust"}
_RANGE = re.compile(r"(-?\d+)\s*\.\.=?\s*(-?\d+)")
_REPEATED = re.compile(r"(run\(.*\))\s*==\s*\1|determinis|reproducib|same_output", re.IGNORECASE)
_BY_WORD = (
    (re.compile(r"arith|math|sanity|reason", re.IGNORECASE), "arithmetic"),
    (re.compile(r"code|syntax|coding", re.IGNORECASE), "code_syntax"),
    (re.compile(r"chat|coheren|respon|instruct", re.IGNORECASE), "response"),
)


@dataclass(frozen=True)
class Sum:
    """Ranges and operators of a generator of sums; the numbers are inclusive."""

    first: tuple[int, int] = (1, 99)
    second: tuple[int, int] = (1, 99)
    operators: tuple[str, ...] = ("+", "-", "*")

    def questions(self, seed: int) -> Iterator[str]:
        """Iterate without end over questions; the same seed gives the same ones."""
        source = random.Random(seed)  # noqa: S311 - no secret
        while True:
            one, other = source.randint(*self.first), source.randint(*self.second)
            yield f"What is {one} {source.choice(self.operators)} {other}? The answer is"


class PropertyTest(Block):
    """One named test: a generator of questions, and what has to hold for the answers."""

    name: Text
    generator: str = ""
    """``arithmetic``, ``code_prompt``, ``any_prompt``, ``multi_turn_chat`` …, with arguments, or a strategy whose
    texts are written out. Default: by name."""
    oracle: str = ""
    """For the reader, but for two things: a text that speaks of two equal runs asks for repeatability."""
    count: Whole = Field(default=100, ge=1, le=10_000)
    """Different questions that are put to every artifact."""
    enabled: Switch = True

    @model_validator(mode="after")
    def _known(self) -> Self:
        if not self.generator or self._understood:
            return self
        name = generators.called(self.generator)
        if generators.is_strategy(self.generator):
            said = 'the strategy writes out no text, as in Just("2+2="): there is nothing to ask'
        else:
            close = meant(name, (*generators.KNOWN, *generators.ORACLE_OF))
            said = (
                f"no generator is called {name!r}{close}; there are {', '.join(generators.KNOWN)} and others"
            )
        raise PydanticCustomError("generator", "{said}", {"said": said, "under": ("generator",)})

    @property
    def _understood(self) -> bool:
        if generators.is_strategy(self.generator):
            return bool(self.texts)
        return bool(generators.oracle_of(self.generator))

    @property
    def texts(self) -> tuple[str, ...]:
        """Questions that the generator writes out."""
        return generators.texts(self.generator) if generators.is_strategy(self.generator) else ()

    @property
    def remark(self) -> str:
        """What of the generator means nothing here, or nothing."""
        loose = generators.unmeant(self.generator, self.judge)
        return f"property_tests {self.name}: the generator cannot be told {loose}" if loose else ""

    @property
    def repeatable(self) -> bool:
        """Say whether it asks that two equal runs give equal texts."""
        return bool(_REPEATED.search(f"{self.oracle} {self.name}"))

    @property
    def judge(self) -> str:
        """The oracle that draws the questions and judges the answers."""
        if self.generator and not generators.is_strategy(self.generator):
            return generators.oracle_of(self.generator)
        return next((oracle for word, oracle in _BY_WORD if word.search(self.name)), "garbage")

    @property
    def languages(self) -> tuple[str, ...]:
        """Programming languages asked for; empty: all that can be judged."""
        said = generators.arguments(self.generator)
        named = said.get("lang", said.get("language", ""))
        found = [part.strip().lower() for part in named.split("|") if part.strip()]
        return tuple(LANGUAGES.get(name, name) for name in found)

    @property
    def sum(self) -> Sum | None:
        """The ranges of a generator of sums that names some."""
        said = generators.arguments(self.generator)
        if self.judge != "arithmetic" or not any(_RANGE.search(text) for text in said.values()):
            return None
        ranges = {name: _RANGE.search(text) for name, text in said.items()}
        first, second = (
            tuple(sorted((int(found[1]), int(found[2])))) if (found := ranges.get(name)) else (1, 99)
            for name in ("a", "b")
        )
        operators = tuple(op for op in said.get("op", "+|-|*").replace(" ", "").split("|") if op in "+-*")
        return Sum((first[0], first[1]), (second[0], second[1]), operators or ("+",))
