"""The external ``apr`` program: where it is, how it is called, and what its answers mean.

What it writes is judged by its content and never by the exit code alone: some of its commands end with 0 and a
JSON object that says that they failed. Text around the object (banners, progress, colours) is left out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apr_qa import processes
from apr_qa.errors import AprQaError, EnvironmentFault, Inapplicable, InferenceFailed, MalformedFile

VARIABLE = "APR_QA_APR_BINARY"
"""Names the program; without it the one on PATH is taken."""
LIMIT_S = 600.0
"""For one call; the runner's own limits are shorter."""
ABSENT = f"no apr program is on PATH: name one with --apr-binary PATH or {VARIABLE}"

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_FLAGS = ("success", "passed", "all_passed", "overall_passed", "valid", "is_equivalent", "ok")
"""Booleans of its answers that say whether what was asked for was done."""
_FAILED = ("error", "failed", "failure")
_OF_THE_FILE = (3, 4, 5)
"""Exit codes: no such file, invalid format, validation failed."""
_OF_THE_PROGRAM = (2, 9)
"""Exit codes: it does not know what it was asked for, or was built without it."""


def located() -> str | None:
    """Return the path of the program, or None."""
    return shutil.which(os.environ.get(VARIABLE) or "apr")


def required() -> str:
    """Return the path of the program; raises Inapplicable."""
    path = located()
    if path is None:
        raise Inapplicable(ABSENT)
    return path


def plain(text: str) -> str:
    """Return text without escape sequences of terminals, and as it stands after carriage returns.

    >>> plain(chr(27) + "[32mok" + chr(27) + "[0m")
    'ok'
    """
    lines = _ANSI.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(line.rsplit("\r", 1)[-1] for line in lines)


def json_object(text: str) -> dict[str, Any] | None:
    """Return the first JSON object in a text, or None; other values and text around it are left out."""
    decoder = json.JSONDecoder(parse_constant=lambda _: None)
    place = text.find("{")
    while place >= 0:
        try:
            found, _ = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
        place = text.find("{", place + 1)
    return None


def failure(answer: dict[str, Any]) -> str:
    """Return why an answer says that what was asked for was not done; empty if it does not say so.

    >>> failure({"text": "4"}), failure({"all_passed": False}), failure({"error": "no tokenizer"})
    ('', 'all_passed is false', 'no tokenizer')
    """
    error = answer.get("error") or answer.get("inference_error")
    if error:
        return str(error.get("message", error) if isinstance(error, dict) else error)
    denied = [name for name in _FLAGS if answer.get(name) is False]
    if denied:
        return f"{denied[0]} is false"
    status = answer.get("status")
    return f"status is {status}" if isinstance(status, str) and status.lower() in _FAILED else ""


def ask(
    words: Sequence[str], *, wanted: Sequence[str] = (), gpu: bool = False, limit_s: float = LIMIT_S
) -> dict[str, Any]:
    """Run a command with ``--json`` and return its answer, which has the keys ``wanted``.

    Raises Inapplicable where the program is to blame, MalformedFile where it says that the file is, and
    InferenceFailed.
    """
    done = call([*words, "--json"], gpu=gpu, limit_s=limit_s)
    answer = json_object(plain(done.out))
    if answer is None:
        raise refusal(words[0], done, _last_words(done))
    if said := failure(answer):
        raise refusal(words[0], done, said)
    if done.code:
        raise refusal(words[0], done, _last_words(done))
    lacking = [name for name in wanted if name not in answer]
    if lacking:
        raise InferenceFailed(f"apr {words[0]}: the answer lacks {', '.join(lacking)}")
    return answer


def call(
    words: Sequence[str], *, stdin: str = "", gpu: bool = False, limit_s: float = LIMIT_S
) -> processes.Finished:
    """Run a command; raises InferenceFailed if it does not end in time."""
    environment = {"NO_COLOR": "1"} if gpu else {"NO_COLOR": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = processes.foreign(
            [required(), *words], limit_s=limit_s, stdin=stdin.encode(), environment=environment
        )
    except EnvironmentFault as fault:
        raise Inapplicable(fault.what) from None
    if done.code is None:
        raise InferenceFailed(f"apr {words[0]} did not end within {limit_s:g} s, or wrote without end")
    return done


def _last_words(done: processes.Finished) -> str:
    lines = [line.strip() for line in plain(f"{done.out}\n{done.err}").splitlines() if line.strip()]
    said = [line.removeprefix("error:").strip() for line in lines if line.startswith("error:")]
    shown = (said or lines or ["it says nothing"])[-1][:300]
    return shown if said or not lines else f"it answers no JSON: {shown!r}"


def refusal(command: str, done: processes.Finished, said: str = "") -> AprQaError:
    """Return the error that the end of a command stands for: of the program, of the file, or of inference."""
    code = done.code or 0
    ended = f" (exit code {code})" if code > 0 else f" (signal {-code})" if code < 0 else ""
    what = f"apr {command}{ended}: {said or _last_words(done)}"
    if code in _OF_THE_FILE:
        return MalformedFile(what)
    return Inapplicable(what) if code in _OF_THE_PROGRAM else InferenceFailed(what)


def version() -> str:
    """Return what the program says about its version in one line; raises Inapplicable or InferenceFailed."""
    done = call(["--version"], limit_s=10.0)
    lines = plain(done.out).split("\n")
    return lines[0].strip()[:80] if done.code == 0 else _last_words(done)


def weights(artifact: Path) -> Path:
    """Return the file to name to the program: of a folder the index of its shards, or its only weights."""
    if not artifact.is_dir():
        return artifact
    index = artifact / "model.safetensors.index.json"
    return index if index.exists() else artifact / "model.safetensors"


def conversation_text(output: str, turns: int) -> str:
    """Return the last answer of a conversation that the program held; raises InferenceFailed.

    It prints a banner, ``You:`` before what it reads and ``Assistant:`` before each answer.
    """
    parts = re.split(
        r"^[^\S\n]*Assistant:", plain(output).replace("You: Assistant:", "\nAssistant:"), flags=re.M
    )
    if len(parts) - 1 < turns:
        raise InferenceFailed(f"apr chat gave {len(parts) - 1} answers to {turns} turns")
    return re.split(r"^[^\S\n]*You:", parts[turns], maxsplit=1, flags=re.M)[0].strip()
