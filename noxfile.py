"""Sessions: ``nox`` runs what CI runs; ``nox -s browser`` needs Chromium besides."""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "types", "fresh", "docs", "bare", "tests"]
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
    session.install(".[certify]", "mypy>=1.15", "types-PyYAML", "types-jsonschema", "starlette", "uvicorn")
    session.run("mypy", "apr_qa")


@nox.session
def fresh(session: nox.Session) -> None:
    """Generated files are what their generators write."""
    session.install(".[certify]", *TEST_TOOLS)
    session.run("pytest", "tests/test_fresh.py")


@nox.session
def docs(session: nox.Session) -> None:
    """What the documents show works, doctests included."""
    session.install(".[certify]", *TEST_TOOLS)
    session.run("pytest", "tests/test_readme.py", "--doctest-modules", "--pyargs", "apr_qa.mqs")


@nox.session
def bare(session: nox.Session) -> None:
    """The package without any extra: at most twenty packages, and its commands work or say what they lack."""
    session.install(".")
    session.run("python", "tests/bare_install.py")


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
def ray(session: nox.Session) -> None:
    """A run on a Ray cluster of this machine, of which one process is killed."""
    session.install(".[dev,ray]")
    session.env["RAY_worker_niceness"] = "0"
    session.run("pytest", "-m", "ray", *session.posargs)


@nox.session
def kills(session: nox.Session) -> None:
    """Fifty kills of workers and of their parent, each followed by --resume; then a thousand crashes."""
    session.install(".", "pytest>=8.3")
    session.env["PYTHONPATH"] = "tests"
    session.run("python", "-m", "fuzzing.kills", *(session.posargs or ["--kills", "50"]))
    if not session.posargs:
        session.run("python", "-m", "fuzzing.kills", "--crashes", "1000")


@nox.session
def fuzz(session: nox.Session) -> None:
    """A hundred thousand mutated files through the readers; ``nox -s fuzz -- --cases N --seed S`` for others."""
    session.install(".[certify]")
    session.env["PYTHONPATH"] = "tests"
    session.run("python", "-m", "fuzzing.campaign", *(session.posargs or ["--cases", "100000"]))
