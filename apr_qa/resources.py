"""The files that come with the program: playbooks, families, schemas and the table of models.

The user's working directory wins, then the copy built into the wheel, then the checkout that the package
is imported from.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from apr_qa.errors import UsageError

PACKAGE = Path(__file__).resolve().parent


def places() -> tuple[tuple[str, Path], ...]:
    """Return (name for a reader, folder) of every place that is searched, first hit first."""
    return (
        ("the working directory", Path.cwd()),
        ("the data built into the package", PACKAGE / "data"),
        ("the checkout of the project", PACKAGE.parent),
    )


def find(relative: str) -> Path:
    """Return the file ``relative`` (forward slashes, no leading one) from the first place that has it.

    Raises UsageError that names every place looked at.
    """
    parts = _parts(relative)
    for _, folder in places():
        candidate = folder.joinpath(*parts)
        if candidate.is_file():
            return candidate
    raise UsageError(f"{relative} does not exist", where=_looked(), fix="check the name, or reinstall apr-qa")


def listing(relative_dir: str, suffix: str) -> list[Path]:
    """Return the files of a folder that end in ``suffix``, by name, each from the first place that has it.

    Raises UsageError if no place has the folder; a folder without such files gives an empty list.
    """
    parts = _parts(relative_dir)
    folders = [folder.joinpath(*parts) for _, folder in places()]
    if not any(folder.is_dir() for folder in folders):
        raise UsageError(
            f"{relative_dir}/ does not exist", where=_looked(), fix="check the name, or reinstall apr-qa"
        )
    found: dict[str, Path] = {}
    for folder in folders:
        for path in folder.glob("*") if folder.is_dir() else ():
            if path.name.endswith(suffix) and path.is_file():
                found.setdefault(path.name, path)
    return [found[name] for name in sorted(found)]


def _parts(relative: str) -> tuple[str, ...]:
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise UsageError(f"{relative!r} does not name a file of the project", fix="give a relative path")
    return path.parts


def _looked() -> str:
    return "looked in " + "; ".join(f"{name} ({folder})" for name, folder in places())
