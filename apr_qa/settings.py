"""What the person at the command line decides, and who is told how a run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from apr_qa.vocabulary import Evidence, Record


class Settings(Record, frozen=True):
    """What the person at the command line decides; everything else is in the playbook."""

    output: str = "certifications"
    given: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Format -> path of artifacts the user brings."""
    policy: str = ""
    """Failure policy; empty takes the playbook's."""
    timeout_s: float = 0.0
    jobs: int = 0
    gpu: bool = True
    download: bool = True
    resume: bool = False
    endpoint: str = ""
    engine: str = ""
    """Registered engine that runs the formats which it takes; empty: the usual ones."""
    converter: str = ""
    """Converter under test; empty: the built-in one."""
    cluster: str = "local"
    """What dispatches batches: ``local``, ``dask`` or ``ray``."""
    scheduler: str = ""
    """Address of the cluster; empty: one on this machine."""
    command: str = ""
    """How to begin the same run again; kept beside its evidence while it is not complete."""
    compare: bool = True
    """False leaves comparisons of formats out; they count as inapplicable."""


class Watcher(Protocol):
    """Who is told how a run goes on."""

    def say(self, text: str) -> None: ...

    def planned(self, scenarios: int) -> None: ...

    def happened(self, entry: Evidence) -> None: ...

    def andon(self, entry: Evidence) -> None: ...


class Silent:
    """A watcher that says nothing: of many small runs only the outcome counts."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def planned(self, scenarios: int) -> None:
        """Count nothing."""

    def happened(self, entry: Evidence) -> None:
        """Show nothing."""

    def andon(self, entry: Evidence) -> None:
        """Stop nothing."""
