"""``apr-qa tools``: single looks at one model, of any format: its file, its insides, its speed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from apr_qa.cli.console import note, print_json
from apr_qa.cli.inspect import command as inspect_command
from apr_qa.cli.inspect import show_checks
from apr_qa.errors import EXIT_FINDING, UsageError
from apr_qa.rendering.visible import visible
from apr_qa.vocabulary import DEVICES, FORMATS

LEVELS = ("none", "basic", "layer", "payload")
FOCUS = ("attention", "mlp", "norm", "embedding", "logits")

_format = click.option(
    "--format",
    "format_name",
    type=click.Choice(FORMATS),
    default=None,
    help="Which of the formats that MODEL is in.",
)
_device = click.option(
    "--device", type=click.Choice(DEVICES), default="cpu", show_default=True, help="Where it runs."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("tools")
def command() -> None:
    """Look at one model: a path or a model id, in any format.

    \b
    Examples:
      apr-qa tools check model.gguf
      apr-qa tools trace model/ --level layer
    """


command.add_command(inspect_command, "inspect")


@command.command("validate")
@click.argument("path", type=click.Path(path_type=Path))
@_json
def validate(path: Path, as_json: bool) -> None:
    """Check a model file and say which share of the checks it passes. Exit 1 on a finding.

    \b
    Example:
      apr-qa tools validate model.gguf
    """
    from apr_qa.inspecting import inspection, loaded

    found = inspection.inspect(path)
    validity = loaded.validity(found.evidence)
    if as_json:
        print_json({"format": found.header.get("format"), "score": validity, **found.to_json()})
    else:
        show_checks(found.evidence)
        click.echo(
            f"{found.header.get('format', 'no known format')}: {validity if validity is not None else '–'} of 100"
        )
    sys.exit(EXIT_FINDING if any(entry.outcome.failed for entry in found.evidence) else 0)


@command.command("check")
@click.argument("model")
@_format
@_device
@_json
def check(model: str, format_name: str | None, device: str, as_json: bool) -> None:
    """Load MODEL and check its insides: tokenizer, embedding, attention, norms, cache, logits. Exit 1 on a finding.

    \b
    Example:
      apr-qa tools check HuggingFaceTB/SmolLM2-135M-Instruct
    """
    from apr_qa.inspecting import loaded
    from apr_qa.inspecting.inspection import Inspection
    from apr_qa.tracing.claims import session_claims
    from apr_qa.vocabulary import Tier

    evidence = loaded.judged(loaded.find(model, format_name or ""), session_claims(Tier.DEEP), device)
    if as_json:
        print_json(Inspection(header={}, evidence=evidence).to_json()["gates"])
    else:
        show_checks(evidence)
    sys.exit(EXIT_FINDING if any(entry.outcome.failed for entry in evidence) else 0)


@command.command("bench")
@click.argument("model")
@click.option("--tokens", type=click.IntRange(2), default=32, show_default=True, help="New tokens of a run.")
@click.option("--repetitions", type=click.IntRange(1), default=5, show_default=True, help="Runs that count.")
@click.option(
    "--warmup", type=click.IntRange(0), default=1, show_default=True, help="Runs before that do not."
)
@click.option("--assert-throughput", type=float, help="Exit 1 below this many tokens per second.")
@click.option(
    "--assert-p99", type=float, help="Exit 1 when 99 % of the tokens take longer than this many ms."
)
@click.option("--assert-p50", type=float, help="Exit 1 when the median token takes longer than this many ms.")
@_format
@_device
@_json
def bench(model: str, format_name: str | None, device: str, as_json: bool, **given: Any) -> None:
    """Measure tokens per second, time to first token and latencies of MODEL, greedy, one sequence.

    \b
    Example:
      apr-qa tools bench model.gguf --repetitions 10 --assert-throughput 20
    """
    from apr_qa.inspecting import loaded

    asked = {name: given[name] for name in ("tokens", "repetitions", "warmup")}
    facts = loaded.facts(loaded.find(model, format_name or ""), "benchmark", asked, device)
    missed = _missed(facts, given)
    if as_json:
        print_json({**facts, "missed": missed})
    else:
        for name, value in facts.items():
            click.echo(f"{name.replace('_', ' '):26} {value}")
    for line in missed:
        note(line)
    sys.exit(EXIT_FINDING if missed else 0)


def _missed(facts: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """Return a line for each stated limit that was not kept."""
    limits = (
        ("assert_throughput", "tokens_per_s_mean", "tokens/s", 1),
        ("assert_p99", "latency_p99_ms", "ms at the 99th percentile", -1),
        ("assert_p50", "latency_p50_ms", "ms in the median", -1),
    )
    return [
        f"{facts[name]} {unit}, asked for {given[option]:g}"
        for option, name, unit, sign in limits
        if given[option] is not None and not sign * facts[name] >= sign * given[option]
    ]


@command.command("profile")
@click.argument("model")
@click.option("--focus", type=click.Choice(FOCUS), default=None, help="One kind of stage, layer by layer.")
@click.option(
    "--flamegraph",
    type=click.Path(path_type=Path),
    help="Write the stacks, folded, as flame graph tools read them.",
)
@_format
@_json
def profile(
    model: str, focus: str | None, flamegraph: Path | None, format_name: str | None, as_json: bool
) -> None:
    """Say where the time of one forward pass goes, by stage or by layer.

    \b
    Examples:
      apr-qa tools profile model.gguf
      apr-qa tools profile model/ --focus attention --flamegraph stacks.txt
    """
    from apr_qa import certify
    from apr_qa.inspecting import loaded
    from apr_qa.tracing import profile as profiles

    facts = loaded.facts(loaded.find(model, format_name or ""), "trace", {})
    rows = profiles.shares(facts["stages"], focus or "")
    if flamegraph is not None:
        certify.write_atomically(flamegraph, profiles.folded(facts["stages"], focus or ""))
        note(f"stacks: {flamegraph}")
    if as_json:
        print_json({"layers": facts["layers"], "tokens": facts["tokens"], "stages": rows})
        return
    for row in rows:
        share = "" if row["share"] is None else f"{row['share']:7.1%}"
        click.echo(f"{row['stage']:28} {1000 * row['seconds']:9.2f} ms {share}")


@command.command("trace")
@click.argument("model")
@click.option(
    "--level", type=click.Choice(LEVELS), default="layer", show_default=True, help="How much is looked at."
)
@click.option("--text", help="What to send through the model instead of a fixed text.")
@_format
@_json
def trace(model: str, level: str, text: str | None, format_name: str | None, as_json: bool) -> None:
    """Show the statistics of every stage of one forward pass. Exit 1 when a stage is not finite.

    \b
    Example:
      apr-qa tools trace model.gguf --level payload --json
    """
    from apr_qa.inspecting import loaded

    asked = {"level": level, **({"text": text} if text else {})}
    facts = loaded.facts(loaded.find(model, format_name or ""), "trace", asked)
    if as_json:
        print_json(facts)
    else:
        _show_trace(facts)
    sys.exit(EXIT_FINDING if facts.get("not_finite") else 0)


def _show_trace(facts: dict[str, Any]) -> None:
    for stage in facts.get("stages", ()):
        numbers = " ".join(
            f"{name} {'–' if stage[name] is None else format(stage[name], '.4g'):>10}"
            for name in ("mean", "std", "l2", "min", "max")
        )
        bad = f" NaN {stage['nan']} inf {stage['inf']}" if stage["nan"] or stage["inf"] else ""
        click.echo(f"{stage['name']:28} {numbers}{bad}")
        if stage["values"]:
            click.echo(" " * 29 + " ".join("–" if v is None else f"{v:.4g}" for v in stage["values"]))
    click.echo(f"{facts['tokens']} tokens" + (f" in {facts['seconds']:.3f} s" if "seconds" in facts else ""))


@command.group("canary")
def canary() -> None:
    """Keep what a model answers now, and notice later that it changed.

    \b
    Example:
      apr-qa tools canary save model.gguf canary.json
    """


@canary.command("save")
@click.argument("model")
@click.argument("path", type=click.Path(path_type=Path))
@_format
def save(model: str, path: Path, format_name: str | None) -> None:
    """Write the canary of MODEL to PATH.

    \b
    Example:
      apr-qa tools canary save model.gguf canary.json
    """
    from apr_qa import certify
    from apr_qa.inspecting import loaded

    facts = loaded.facts(loaded.find(model, format_name or ""), "canary_snapshot", {})
    certify.write_atomically(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    click.echo(path)


@canary.command("compare")
@click.argument("model")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--tolerance", type=float, default=0.05, show_default=True, help="Nats that a log-probability may move."
)
@_format
@_json
def compare(model: str, path: Path, tolerance: float, format_name: str | None, as_json: bool) -> None:
    """Compare MODEL with the canary in PATH. Exit 1 when it drifted.

    \b
    Example:
      apr-qa tools canary compare model.gguf canary.json
    """
    import msgspec

    from apr_qa.inspecting import loaded
    from apr_qa.tracing.canary import drift

    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the canary cannot be read: {error}", where=str(path), fix="apr-qa tools canary save"
        ) from error
    found = loaded.find(model, format_name or "")
    seen = drift(saved, loaded.facts(found, "canary_snapshot", {}), tolerance)
    if as_json:
        print_json(msgspec.to_builtins(seen))
    else:
        click.echo(
            f"{len(seen.changed)} of {seen.prompts} prompts drifted, largest change {seen.largest:.3g} nats"
        )
        for prompt in seen.changed:
            click.echo(f"  {visible(prompt)!r}")
    sys.exit(EXIT_FINDING if seen.changed else 0)
