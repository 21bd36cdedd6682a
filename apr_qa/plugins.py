"""Registry: a new member of a family is one file in its folder, or an entry point elsewhere."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from apr_qa.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """The members of one family, found by walking ``apr_qa.<family>`` and its entry-point group.

    A file registers members under names of its choice; the file that carries the registered name is
    tried first, so that asking for one member does not import the others.
    """

    def __init__(self, family: str) -> None:
        self.family = family
        self._members: dict[str, T] = {}
        self._complete = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that enters its argument under ``name``; a second owner is a bug."""

        def enter(member: T) -> T:
            if name in self._members and self._members[name] is not member:
                raise ValueError(f"{self.family}: {name!r} is registered twice")
            self._members[name] = member
            return member

        return enter

    def get(self, name: str) -> T:
        """Return the member called ``name``; raises UsageError with a suggestion."""
        if name not in self._members:
            self._import_file(name)
        if name not in self._members:
            self._load_all()
        if name not in self._members:
            close = difflib.get_close_matches(name, self._members, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(self.names())}"
            raise UsageError(f"no {self.family.rstrip('s')} is called {name!r}", fix=hint)
        return self._members[name]

    def names(self) -> list[str]:
        """Return all registered names, sorted."""
        self._load_all()
        return sorted(self._members)

    def items(self) -> Iterator[tuple[str, T]]:
        """Iterate over (name, member), sorted by name."""
        return iter([(name, self._members[name]) for name in self.names()])

    def _import_file(self, name: str) -> None:
        module = f"apr_qa.{self.family}.{name}"
        if name.isidentifier() and importlib.util.find_spec(module) is not None:
            importlib.import_module(module)

    def _load_all(self) -> None:
        if self._complete:
            return
        package = importlib.import_module(f"apr_qa.{self.family}")
        for info in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{info.name}")
        for point in entry_points(group=f"apr_qa.{self.family}"):
            self.register(point.name)(point.load())
        self._complete = True
