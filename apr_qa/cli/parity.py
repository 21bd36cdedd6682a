"""``apr-qa parity``: golden logits of a ground truth, and whether other files and engines agree with them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from apr_qa.cli.console import note, print_json
from apr_qa.errors import EXIT_FINDING, UsageError
from apr_qa.rendering.visible import one_line

LEVELS = ("fp32", "fp16", "bf16", "int8", "int4")

_corpus = click.option(
    "-c",
    "--corpus",
    type=click.Path(path_type=Path),
    default=Path("golden"),
    show_default=True,
    help="Folder of the corpora.",
)
_family = click.option(
    "-m", "--model-family", default="", help="Folder of one corpus under --corpus, such as qwen2/0.5b."
)
_tolerance = click.option(
    "-t",
    "--tolerance",
    type=click.Choice(LEVELS),
    default="fp32",
    show_default=True,
    help="How far logits may differ.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("parity")
def command() -> None:
    """Keep the logits of a ground truth on fixed prompts, and compare others with them.

    \b
    Examples:
      apr-qa parity generate model/ -m tiny/1 -c golden
      apr-qa parity compare model-q8_0.gguf -m tiny/1 -c golden --tolerance int8
    """


@command.command("generate")
@click.argument("model")
@_corpus
@_family
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    help="File with one prompt a line instead of the built-in ones.",
)
def generate(model: str, corpus: Path, model_family: str, prompts: Path | None) -> None:
    """Run MODEL, the ground truth, and keep its logits.

    \b
    Example:
      apr-qa parity generate HuggingFaceTB/SmolLM2-135M-Instruct -m smollm2/135m
    """
    from apr_qa import plan
    from apr_qa.inspecting import loaded
    from apr_qa.workspace import content_sha256

    artifact = loaded.find(model)
    about = {
        "model": model,
        "model_sha256": content_sha256(Path(artifact.path)),
        "engine": plan.ENGINES[artifact.format],
        "quantization": artifact.quantization,
    }
    asked = {"folder": str((corpus / model_family).absolute()), "about": about, "prompts": _lines(prompts)}
    facts = loaded.facts(artifact, "golden_generate", asked)
    note(f"{facts['prompts']} prompts")
    click.echo(corpus / model_family)


def _lines(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"the prompts cannot be read: {error}", where=str(path), fix="one prompt a line, UTF-8"
        ) from error
    if not lines:
        raise UsageError("there is no prompt in the file", where=str(path), fix="one prompt a line")
    return lines


@command.command("list")
@_corpus
@_json
def list_(corpus: Path, as_json: bool) -> None:
    """List the corpora under --corpus.

    \b
    Example:
      apr-qa parity list -c golden
    """
    from apr_qa.golden import corpus as corpora

    found = {str(path.relative_to(corpus)): corpora.read(path) for path in corpora.corpora(corpus)}
    if as_json:
        import msgspec

        print_json({name: msgspec.to_builtins(one) for name, one in found.items()})
        return
    for name, one in found.items():
        click.echo(
            f"{name}: {len(one.prompts)} prompts of {one.model} ({one.engine}, {one.model_sha256[:12]})"
        )
    if not found:
        note(f"no corpus under {corpus}; make one: apr-qa parity generate MODEL")


@command.command("compare")
@click.argument("model", required=False)
@_corpus
@_family
@_tolerance
@click.option(
    "-l", "--logits-file", type=click.Path(path_type=Path), help="Compare these logits instead of a model's."
)
@click.option("-p", "--prompt", help="The prompt that --logits-file answers.")
@click.option(
    "--self-check", is_flag=True, help="Allow the model that the corpus was made from: does it repeat itself?"
)
@_json
def compare(
    model: str | None, corpus: Path, model_family: str, tolerance: str, as_json: bool, **given: Any
) -> None:
    """Compare MODEL, or a file of logits, with a corpus. Exit 1 when a prompt does not agree.

    \b
    Examples:
      apr-qa parity compare model-q8_0.gguf -m tiny/1 --tolerance int8
      apr-qa parity compare -m tiny/1 --logits-file mine.safetensors --prompt "2 + 2 ="
    """
    folder = corpus / model_family
    if (model is None) == (given["logits_file"] is None):
        raise UsageError("name a model or --logits-file, one of the two", fix="apr-qa parity compare --help")
    if model is not None:
        rows = _of_model(model, folder, tolerance, self_check=given["self_check"])
    else:
        rows = [_of_file(folder, tolerance, given["logits_file"], given["prompt"])]
    failed = [row for row in rows if not (row["agrees"] and row.get("same_tokens", True))]
    if as_json:
        print_json({"tolerance": tolerance, "prompts": rows})
    else:
        for row in rows:
            _show(row)
    sys.exit(EXIT_FINDING if failed else 0)


def _of_model(model: str, folder: Path, level: str, *, self_check: bool) -> list[dict[str, Any]]:
    from apr_qa import plan
    from apr_qa.golden import corpus as corpora
    from apr_qa.inspecting import loaded
    from apr_qa.workspace import content_sha256

    kept = corpora.read(folder)
    artifact = loaded.find(model)
    same = (
        content_sha256(Path(artifact.path)) == kept.model_sha256
        and plan.ENGINES[artifact.format] == kept.engine
    )
    if same and not self_check:
        raise UsageError(
            "the corpus was made from this very model in this engine: comparing it with itself proves no parity",
            where=str(folder),
            fix="compare another file or engine, or ask for --self-check",
        )
    asked = {"folder": str(folder.absolute()), "tolerance": level}
    rows: list[dict[str, Any]] = loaded.facts(artifact, "golden_compare", asked)["prompts"]
    return rows


def _of_file(folder: Path, level: str, path: Path, prompt: str | None) -> dict[str, Any]:
    import msgspec

    from apr_qa.golden import corpus as corpora
    from apr_qa.golden.tolerance import agreement
    from apr_qa.golden.tolerance import tolerance as tolerance_of

    kept = corpora.read(folder)
    golden = next((one for one in kept.prompts if one.prompt == prompt), None)
    if golden is None:
        known = ", ".join(repr(one.prompt) for one in kept.prompts)
        raise UsageError(
            f"the corpus has no prompt {prompt!r}", where=str(folder), fix=f"--prompt, one of {known}"
        )
    if path.is_file() and corpora.file_sha256(path) == golden.sha256:
        raise UsageError(
            "these are the golden logits themselves", where=str(path), fix="give the logits of another run"
        )
    found = agreement(corpora.golden_logits(kept, golden), corpora.logits_at(path), tolerance_of(level))
    return {"prompt": prompt, **msgspec.to_builtins(found)}


def _show(row: dict[str, Any]) -> None:
    mark = "✓" if row["agrees"] and row.get("same_tokens", True) else "✗"
    words = f"{row['mismatched']} of {row['elements']} logits differ, at most by {row['largest']}"
    tokens = "" if row.get("same_tokens", True) else "; the token ids differ"
    click.echo(f"{mark} {one_line(repr(row['prompt']), 40):40} {words}, top-1 {row['top1']:.0%}{tokens}")
