"""What several commands take from the command line, checked before anything is started."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from apr_qa.errors import UsageError
from apr_qa.vocabulary import FORMATS, Tier

POLICIES = ("stop_on_first", "stop_on_p0", "collect_all", "fail_fast")
TIERS = (*map(str, Tier), "full")
"""``full`` is another word for ``deep``."""


def tier_of(word: str) -> Tier:
    """Return the tier that a word of ``TIERS`` means."""
    return Tier.DEEP if word == "full" else Tier(word)


def policy_of(policy: str | None, fail_fast: bool) -> str:
    """Return the failure policy that two options ask for together; empty: the playbook's."""
    if fail_fast and policy not in (None, "fail_fast"):
        raise UsageError(f"--fail-fast and --failure-policy {policy} contradict each other", fix="give one")
    return "fail_fast" if fail_fast else policy or ""


def given_artifacts(texts: Iterable[str]) -> dict[str, str]:
    """Return format -> path from FORMAT=PATH options."""
    given: dict[str, str] = {}
    for text in texts:
        name, separator, path = text.partition("=")
        if not separator or name not in FORMATS:
            raise UsageError(
                f"--artifact {text!r} is not FORMAT=PATH",
                fix=f"FORMAT is one of {', '.join(FORMATS)}, e.g. --artifact gguf=model.gguf",
            )
        if name in given:
            raise UsageError(f"--artifact brings {name} twice", fix="give one file a format")
        if not Path(path).exists():
            raise UsageError(f"--artifact {text!r}: there is no such file", where=path, fix="check the path")
        given[name] = path
    return given


DERIVATIVES = "derivatives"
"""Variable that names a folder which gives many."""


def given_variables(texts: Iterable[str], playbooks: Sequence[Path]) -> dict[str, str]:
    """Return name -> value from NAME=VALUE options; a name that no playbook uses is refused.

    ``derivatives=FOLDER`` gives what the folder's derivatives.json lists; what is given besides goes before.
    """
    given: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name.isidentifier():
            raise UsageError(f"--var {text!r} is not NAME=VALUE", fix="e.g. --var MODEL_ID=org/name")
        given[name] = value
    contents = [path.read_bytes() for path in playbooks if path.is_file()]
    if DERIVATIVES in given:
        from apr_qa.playbooks.derivation import brought

        listed = brought(given.pop(DERIVATIVES))
        used = {
            n: v
            for n, v in listed.items()
            if n == "MODEL" or any(b"${%b}" % n.encode() in c for c in contents)
        }
        given = {**used, **given}
    for name in given:
        # A playbook that is about every model takes its model from these without a ${...}.
        if name in ("MODEL_ID", "HF_REPO", "MODEL") or name.startswith("MODEL_NAME"):
            continue
        if contents and not any(b"${%b}" % name.encode() in content for content in contents):
            raise UsageError(
                f"--var {name}: no playbook has ${{{name}}}", where=", ".join(map(str, playbooks))
            )
    return given


def evidence_file(path: Path) -> Path:
    """Return the evidence file that a file or folder stands for; raises UsageError if it is not there."""
    from apr_qa import certify, evidence

    file = evidence.stored(path) if path.is_dir() else path
    if file.exists():
        return file
    fix = f"name an {certify.EVIDENCE_FILE} or the folder that holds one"
    checks = sorted(file.parent.glob(f"checks/*/{certify.EVIDENCE_FILE}"))
    if checks:
        fix = f"there is {', '.join(map(str, checks))}"
    elif (file.parent / certify.PARTIAL_FILE).exists():
        fix = "the run was interrupted: go on with it by --resume"
    raise UsageError("there is no such evidence file", where=str(file), fix=fix)


def each_once(folders: Iterable[Path]) -> None:
    """Refuse two runs that would write to the same folder: the second would replace the first."""
    twice = [folder for folder, times in Counter(folders).items() if times > 1]
    if twice:
        raise UsageError(
            "two runs would write to the same folder",
            where=str(twice[0]),
            fix="run them one after the other, each with an --output of its own",
        )


def writable_file(path: str | None) -> None:
    """Refuse a file that could not be written in the end, before hours are spent."""
    if path and not Path(path).absolute().parent.is_dir():
        raise UsageError("the folder does not exist", where=path, fix="create it, or name another file")


def one_of(name: str, known: Sequence[str], what: str) -> str:
    """Return ``name`` if it is known; raises UsageError with the closest word and all of them."""
    if name in known:
        return name
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    raise UsageError(f"no {what} is called {name!r}", fix=f"{meant}choose from {', '.join(known)}")


def complete_family(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the families that a shell may complete to."""
    from apr_qa import registry

    return sorted({m.family for m in registry.models() if m.family.startswith(incomplete)})


def complete_model(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the model ids that a shell may complete to, whatever the case."""
    from apr_qa import registry

    return [m.id for m in registry.models() if m.id.lower().startswith(incomplete.lower())]
