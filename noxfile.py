"""Sessions: ``nox`` runs what CI runs; ``nox -s browser`` needs Chromium besides."""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "types", "fresh", "docs", "tests"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

TEST_TOOLS = ("pytest>=8.3", "syrupy>=4.8", "jsonschema>=4.23")


@nox.session
def lint(session: nox.Session) -> None:
    """Style and suspicious constructs."""
    session.install("ruff>=0.9")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict over the package; engines stay out, their absence is configured."""
    session.install(".", "mypy>=1.15", "types-PyYAML", "types-jsonschema", "starlette", "uvicorn")
    session.run("mypy", "apr_qa")


@nox.session
def fresh(session: nox.Session) -> None:
    """Generated files are what their generators write."""
    session.install(".", *TEST_TOOLS)
    session.run("pytest", "tests/test_fresh.py")


@nox.session
def docs(session: nox.Session) -> None:
    """What the documents show works, doctests included."""
    session.install(".", *TEST_TOOLS)
    session.run("pytest", "tests/test_readme.py", "--doctest-modules", "--pyargs", "apr_qa.mqs")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests against the installed package; warnings are errors."""
    session.install(".[dev]")
    session.run("pytest", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """The HTML report in headless Chromium (Debian package ``chromium``)."""
    session.install(".[dev]", "websocket-client")
    session.run("pytest", "-m", "browser", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """A hundred thousand mutated files through the readers; ``nox -s fuzz -- --cases N --seed S`` for others."""
    session.install(".")
    session.env["PYTHONPATH"] = "tests"
    session.run("python", "-m", "fuzzing.campaign", *(session.posargs or ["--cases", "100000"]))
