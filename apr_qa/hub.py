"""The Hugging Face hub and its cache folder, seen from a machine that may have neither."""

from __future__ import annotations

import importlib.util
import os
import threading
from pathlib import Path

from apr_qa import extras
from apr_qa.containers.artifact_files import expanded

PROBE_S = 5.0
"""Limit for connecting to the hub and for its answer to one small question."""
PATIENCE_S = 8.0
"""Limit for the whole probe: looking up the name of a host has no limit of its own."""
ALLOWED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.jinja",
    "chat_template.json",
)
"""What a qualification needs of a repository: no GGUF files, exports to other engines or checkpoints."""
IGNORED = ("*/*",)

_silent: list[str] = []


def cache_folder() -> Path:
    """Return the hub cache that the environment names, by the rules of huggingface_hub; it need not exist."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    hf_home = os.environ.get("HF_HOME") or f"{home}/huggingface"
    hub = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{hf_home}/hub"
    return expanded(Path(os.path.expandvars(hub)))


def offline() -> bool:
    """Say whether the environment forbids talking to the hub."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def download_snapshot(repo_id: str, revision: str, folder: Path) -> tuple[str, str]:
    """Download what a qualification needs into ``folder`` (hub cache layout); return (commit, problem).

    One of the two is empty. A hub that did not answer is not asked again by this process, so that a family of
    models waits for it once.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        return "", extras.not_installed("huggingface_hub").what
    if _silent:
        return "", _silent[0]
    problem = _probe(repo_id, revision)
    if problem:
        return "", problem
    from huggingface_hub import snapshot_download

    try:
        snapshot = snapshot_download(
            repo_id,
            revision=revision,
            endpoint=_endpoint(),
            cache_dir=folder,
            allow_patterns=list(ALLOWED),
            ignore_patterns=list(IGNORED),
            etag_timeout=PROBE_S,
        )
    except (_transport_error(), OSError, ValueError) as error:
        return "", _told(error, "the download failed")
    return Path(snapshot).name, ""


def _probe(repo_id: str, revision: str) -> str:
    """Ask the hub whether it has this revision; return what stands in the way, or nothing."""
    answers: list[str] = []
    asking = threading.Thread(target=_ask, args=(repo_id, revision, answers), daemon=True)
    asking.start()
    asking.join(PATIENCE_S)
    if not answers:
        _silent.append(f"no answer within {PATIENCE_S:g} s")
        return _silent[0]
    return answers[0]


def _ask(repo_id: str, revision: str, answers: list[str]) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi(endpoint=_endpoint()).model_info(repo_id, revision=revision, timeout=PROBE_S)
    except (HfHubHTTPError, ValueError) as error:
        answers.append(_told(error, "the hub refused"))
    except (_transport_error(), OSError) as error:
        _silent.append(f"not reachable: {_first_line(error)}")
        answers.append(_silent[0])
    else:
        answers.append("")


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _transport_error() -> type[BaseException]:
    """Return the base of all errors of the HTTP library that this release of huggingface_hub is built on."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def _told(error: BaseException, what: str) -> str:
    """Say in one line what the hub objects to."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return "gated: accept its terms on the hub, then `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "no such repository, or it is private and this machine is not logged in"
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision"
    return f"{what}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
