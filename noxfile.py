"""Sessions: ``nox`` runs what CI runs; ``nox -s browser`` and ``nox -s bench`` need more of the machine."""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "types", "fresh", "docs", "tests"]
nox.options.default_venv_backend = "venv"
# One environment for all sessions: the engines are large, and llama.cpp is compiled from source.
nox.options.reuse_existing_virtualenvs = True

ENGINES = ".[dev]"


def _install(session: nox.Session) -> None:
    session.install(ENGINES)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and suspicious constructs."""
    session.install("ruff>=0.9")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict over the package."""
    session.install(".", "mypy>=1.15", "types-PyYAML", "types-jsonschema", "starlette", "uvicorn", "pytest")
    session.run("mypy", "apr_qa")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests against the installed package; warnings are errors."""
    _install(session)
    session.run("pytest", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Run what the README shows, and the doctests."""
    _install(session)
    session.run("pytest", "tests/test_readme.py", "--doctest-modules", "apr_qa/mqs.py", *session.posargs)


@nox.session
def fresh(session: nox.Session) -> None:
    """Generated files are what their generators write."""
    session.install(".", "pytest>=8.3", "jsonschema>=4.23")
    session.run("pytest", "tests/test_fresh.py", "-q")


@nox.session
def browser(session: nox.Session) -> None:
    """The HTML report in headless Chromium (Debian package ``chromium``)."""
    _install(session)
    session.install("websocket-client")
    session.run("pytest", "-m", "browser", *session.posargs)
