"""``apr-qa eval``: how many problems a model solves, or how well it predicts a text."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from apr_qa.cli.arguments import complete_model, writable_file
from apr_qa.cli.console import Progress, note, print_json, style
from apr_qa.errors import EXIT_INFERENCE_FAILED, UsageError
from apr_qa.rendering.visible import visible
from apr_qa.vocabulary import FORMATS

STRATEGIES = ("standard", "few-shot", "scot", "cgo")
DEFAULT_KS = (1, 10, 100)
DEFAULT_TOP_K = 40


@click.command("eval")
@click.argument("model", shell_complete=complete_model)
@click.option("--task", required=True, help="humaneval, mbpp, perplexity, or a file of coding problems.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Where the task's data is; default: cache, hub."
)
@click.option("--format", "format_name", type=click.Choice(FORMATS), help="Derived if the model lacks it.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first problems.")
@click.option("--samples", type=click.IntRange(1, 1000), default=1, show_default=True, help="Per problem.")
@click.option(
    "--temperature", type=click.FloatRange(0.0, 10.0), default=0.0, show_default=True, help="0: greedy."
)
@click.option("--top-k", type=click.IntRange(min=0), help="0: all. Default: 1 at temperature 0, else 40.")
@click.option(
    "--top-p",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    default=1.0,
    show_default=True,
    help="Nucleus of this mass.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same samples.")
@click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    default="standard",
    show_default=True,
    help="How the question is put.",
)
@click.option("--k", "ks", help="pass@k to report, e.g. 1,10; at most --samples.")
@click.option("--completion", is_flag=True, help="Continue the prompt, even where there is a chat template.")
@click.option(
    "--max-tokens", type=click.IntRange(1, 32768), default=512, show_default=True, help="Of one answer."
)
@click.option("--text", type=click.Path(path_type=Path), help="perplexity: the text, UTF-8.")
@click.option("--window", type=click.IntRange(min=2), help="perplexity: tokens read at once. Default: 512.")
@click.option(
    "--stride", type=click.IntRange(min=1), help="perplexity: tokens a step. Default: half a window."
)
@click.option("--output", help="Write the result as JSON to this file too.")
@click.option("--unsafe", is_flag=True, help="Run generated code even where nothing isolates it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(model: str, task: str, output: str | None, as_json: bool, quiet: bool, **options: Any) -> None:
    """Evaluate MODEL (org/name or a path) on a task; exit 8 if inference failed for every question.

    Generated programs run in a sandbox; what they return is compared outside of it.

    \b
    Examples:
      apr-qa eval model.gguf --task humaneval --data HumanEval.jsonl.gz --limit 20
      apr-qa eval org/name --task mbpp --samples 20 --temperature 0.8 --k 1,10 --json
      apr-qa eval model/ --task perplexity --text wiki.txt --window 512 --stride 256
    """
    from apr_qa import registry

    writable_file(output)
    chosen = registry.select([model], None, False)[0]
    with Progress(quiet=quiet) as progress:
        run = _text if task == "perplexity" else _code
        result = run(chosen, task, progress, options)
    if output:
        Path(output).write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        print_json(result)
    else:
        _show(result)
    sys.exit(EXIT_INFERENCE_FAILED if result["mode"] == "inference_failed" else 0)


def _code(model: Any, task: str, progress: Progress, options: dict[str, Any]) -> dict[str, Any]:
    import msgspec

    from apr_qa.evaluation import coding, datasets
    from apr_qa.evaluation.subject import subject
    from apr_qa.sandbox.client import Sandbox

    _refuse(options, ("text", "window", "stride"), "--task perplexity")
    sampling = _sampling(options)
    ks = _ks(options["ks"], sampling.samples)
    data = datasets.load(task, options["data"], options["limit"] or 0)
    with Sandbox(unsafe=options["unsafe"]) as sandbox:
        if sandbox.isolation["missing"]:
            note(f"warning: nothing isolates {', '.join(sandbox.isolation['missing'])} from generated code")
        found = subject(model, options["format_name"] or "", progress.say)
        progress.planned(len(data.problems) * sampling.samples)
        found = msgspec.structs.replace(found, has_template=found.has_template and not options["completion"])
        way = coding.Way(sampling=sampling, strategy=options["strategy"], ks=tuple(ks))
        return coding.evaluate(found, data, way, sandbox, progress.happened)


def _text(model: Any, task: str, progress: Progress, options: dict[str, Any]) -> dict[str, Any]:
    from apr_qa.evaluation import text_task
    from apr_qa.evaluation.subject import subject

    _refuse(options, ("data", "limit", "ks"), "a coding task")
    path, window, stride = options["text"], options["window"] or 0, options["stride"] or 0
    if path is None:
        raise UsageError("--task perplexity needs a text", fix="--text FILE")
    if stride and stride >= (window or 512):
        raise UsageError("--stride must be less than --window", fix=f"e.g. --stride {(window or 512) // 2}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read: {error}", where=str(path), fix="give a UTF-8 text file") from None
    if not text.strip():
        raise UsageError("the text is empty", where=str(path))
    found = subject(model, options["format_name"] or "", progress.say)
    progress.planned(1)
    return text_task.evaluate(found, path.name, text, window, stride, progress.happened)


def _refuse(options: dict[str, Any], names: tuple[str, ...], belongs_to: str) -> None:
    for name in names:
        if options[name] is not None:
            raise UsageError(f"--{name.removesuffix('s') if name == 'ks' else name} belongs to {belongs_to}")


def _sampling(options: dict[str, Any]) -> Any:
    from apr_qa.evaluation.coding import Sampling

    temperature, top_k = options["temperature"], options["top_k"]
    if top_k is None:
        top_k = DEFAULT_TOP_K if temperature > 0 else 1
    names = ("samples", "top_p", "seed", "max_tokens")
    return Sampling(temperature=temperature, top_k=top_k, **{name: options[name] for name in names})


def _ks(text: str | None, samples: int) -> list[int]:
    """Return the k of pass@k; one over the number of samples cannot be estimated and is said to be left out."""
    if text is None:
        return [k for k in DEFAULT_KS if k <= samples]
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--k {text!r} is no list of numbers", fix="e.g. --k 1,10")
    wanted = sorted({int(part) for part in parts})
    kept = [k for k in wanted if k <= samples]
    if kept != wanted:
        left_out = ", ".join(f"pass@{k}" for k in wanted if k > samples)
        note(f"{left_out} cannot be estimated from --samples {samples}")
    if not kept:
        raise UsageError("no pass@k can be reported", fix=f"take --samples {wanted[0]} or more")
    return kept


def _show(result: dict[str, Any]) -> None:
    model, totals = result["model"], result["totals"]
    click.echo(f"{visible(model['id'])} {model['format']} {model['dtype'] or '?'} {model['sha256'][:12]}")
    if result["mode"] == "inference_failed":
        click.echo(f"{style('inference failed', 'red')}: {visible(str(result['inference_error']))[:500]}")
    elif result["task"] == "perplexity":
        shown = "over the range of a float" if result["perplexity"] is None else f"{result['perplexity']:.4f}"
        click.echo(f"perplexity {shown} over {totals['predicted_tokens']:,} tokens of {result['data']}")
        click.echo(f"window {totals['window']}, stride {totals['stride']}")
    else:
        _show_code(result, totals)


def _show_code(result: dict[str, Any], totals: dict[str, int]) -> None:
    for k, value in result["pass_at_k"].items():
        click.echo(f"pass@{k} {value:.4f} ({100 * value:.1f} %)")
    counted = ", ".join(
        f"{totals[name]} {name.replace('_', ' ')}"
        for name in ("passed", "failed", "timeout", "crashed", "invalid", "inference_errors")
        if totals[name] or name == "passed"
    )
    click.echo(f"{totals['problems']} problems, {totals['samples']} samples: {counted}")
    if totals["inference_errors"]:
        click.echo(f"first inference error: {visible(str(result['inference_error']))[:300]}")
    speed = result["generation"]
    if speed["tokens"] is not None:
        click.echo(f"{speed['tokens']} tokens in {speed['wall_s']:g} s, loading included")
    sampling = result["sampling"]
    click.echo(
        f"{result['task']}, strategy {result['strategy']}, {result['prompting']}, temperature "
        f"{sampling['temperature']:g}, top-k {sampling['top_k']}, seed {sampling['seed']}"
    )
