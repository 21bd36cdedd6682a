"""Entry point: run a command and turn every refusal into a message and an exit code."""

from __future__ import annotations

import sys

from apr_qa.errors import EXIT_BUG, EXIT_ENVIRONMENT, EXIT_INTERRUPTED, AprQaError


def main() -> None:
    """Run the command line; a user's mistake never shows a traceback."""
    import click

    from apr_qa.cli import command_line

    try:
        sys.exit(command_line.main(prog_name="apr-qa", standalone_mode=False))
    except click.ClickException as mistake:
        mistake.show()
        sys.exit(mistake.exit_code)
    except AprQaError as refusal:
        from apr_qa.cli.console import refused

        print(f"error: {refused(refusal)}", file=sys.stderr)  # noqa: T201 - the only place errors are printed
        sys.exit(refusal.exit_code)
    except ModuleNotFoundError as missing:
        from apr_qa import extras

        cure = extras.cure(missing.name or "")
        if not cure:
            _report_bug()
            sys.exit(EXIT_BUG)
        print(f"error: this needs {missing.name}, which is not installed; {cure}", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_ENVIRONMENT)
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_INTERRUPTED)
    except OSError as fault:
        if fault.filename is None:
            _report_bug()
            sys.exit(EXIT_BUG)
        print(f"error: {fault.filename}: {fault.strerror}", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_ENVIRONMENT)
    except Exception:  # noqa: BLE001 - the last line of defence: a bug of ours, with something to paste
        _report_bug()
        sys.exit(EXIT_BUG)


def _report_bug() -> None:
    import platform
    import traceback

    from apr_qa import __version__

    traceback.print_exc()
    lines = (
        "",
        "This is a bug in apr-qa, not a mistake of yours. Please report the lines above together with:",
        f"  apr-qa {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"  command: {' '.join(sys.argv)}",
    )
    print("\n".join(lines), file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
