"""``apr-qa cache``: what the cache folder holds, and making it smaller."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from apr_qa.cli.console import note, print_json

if TYPE_CHECKING:
    from apr_qa.cache import Entry, Removal


@click.group("cache", invoke_without_command=True)
@click.option("--limit", metavar="SIZE", help="Remove what was not used for longest until the rest fits.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, limit: str | None, as_json: bool) -> None:
    """Show what is kept between runs: converted models, predictions, downloads. All of it can be removed.

    APR_QA_CACHE says where it is, APR_QA_CACHE_LIMIT how large it may become (20GB). What a running process uses is
    never removed, and downloads only by name.

    \b
    Examples:
      apr-qa cache
      apr-qa cache --limit 5GB
      apr-qa cache clear logits
    """
    if context.invoked_subcommand is not None:
        return
    from apr_qa import cache, workspace

    root = workspace.root()
    if limit:
        _tell(cache.trim(root, cache.limit_bytes(limit)))
    found = cache.entries(root)
    if as_json:
        print_json({"path": str(root), "limit_bytes": cache.limit_bytes(limit or ""), "kinds": _kinds(found)})
        return
    click.echo(f"{root}, at most {_size(cache.limit_bytes(limit or ''))}")
    for row in _kinds(found):
        ago = _ago(time.time() - row["used"])
        click.echo(
            f"{row['kind']:<11} {row['entries']:>6} {_size(row['bytes']):>10}  {ago:<12} {row['purpose']}"
        )
    click.echo(f"{'together':<11} {len(found):>6} {_size(sum(entry.bytes for entry in found)):>10}")


@command.command("clear")
@click.argument("kind", required=False, default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def clear(kind: str, as_json: bool) -> None:
    """Remove everything of one KIND, or everything but downloads.

    \b
    Example:
      apr-qa cache clear artifacts
    """
    from apr_qa import cache, workspace

    done = cache.clear(workspace.root(), kind)
    if as_json:
        print_json({"removed": _kinds(done.removed), "in_use": _kinds(done.in_use)})
    else:
        _tell(done)


def _tell(done: Removal) -> None:
    freed = _size(sum(entry.bytes for entry in done.removed))
    note(f"{len(done.removed)} entries removed, {freed} freed")
    if done.in_use:
        note(f"{len(done.in_use)} entries kept: they were used since a process began that still runs")


def _kinds(found: Sequence[Entry]) -> list[dict[str, Any]]:
    from apr_qa.cache import KINDS

    rows = []
    for kind in sorted({entry.kind for entry in found}, key=lambda kind: (kind not in KINDS, kind)):
        of_kind = [entry for entry in found if entry.kind == kind]
        rows.append(
            {
                "kind": kind,
                "entries": len(of_kind),
                "bytes": sum(entry.bytes for entry in of_kind),
                "used": round(max(entry.used for entry in of_kind), 3),
                "purpose": KINDS.get(kind, "not ours, or of another version"),
            }
        )
    return rows


def _size(count: int) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def _ago(seconds: float) -> str:
    for unit, scale in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= scale:
            return f"{seconds / scale:.0f} {unit} ago"
    return "just now"
