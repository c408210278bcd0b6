"""`tta-bench`: its commands, and how errors are reported."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer

import tta_bench
from tta_bench.cli import (
    audit,
    check,
    check_model,
    compare,
    export,
    key_tokens,
    merge,
    new_method,
    plan,
    report,
    reproduce,
    rm,
    runs,
    show,
    speed,
    train,
    tune,
)
from tta_bench.cli import eval as eval_command
from tta_bench.cli import list as list_command
from tta_bench.cli.options import INTERRUPTED
from tta_bench.cli.streams import accept_any_text, discard_output, flush_output
from tta_bench.errors import BenchError

FULL = 1

app = typer.Typer(
    name="tta-bench",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Measure methods that let a language model keep learning while it reads.",
)
app.command("eval")(eval_command.evaluate)
app.command("plan")(plan.plan)
app.command("merge")(merge.merge)
app.command("check")(check.check)
app.command("check-model")(check_model.check_model)
app.command("audit")(audit.audit)
app.command("show")(show.show)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("key-tokens")(key_tokens.key_tokens)
app.command("reproduce")(reproduce.reproduce)
app.command("runs")(runs.runs)
app.command("rm")(rm.rm)
app.command("export")(export.export)
app.add_typer(list_command.app, name="list")
app.command("new-method")(new_method.new_method)
app.command("speed")(speed.speed)
app.command("train")(train.train)
app.command("tune")(tune.tune)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tta-bench {tta_bench.__version__}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options before the name of a command."""
    # Bars of libraries would interrupt our own lines; who wants them sets the variables to 0.
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")


def _at_home(word: str) -> str:
    """A word with the home folder for `~`, which shells leave alone in `--model=~/folder`."""
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return flag + equals + os.path.expanduser(value)


def run() -> None:
    """Entry point: errors that a user can fix end in one sentence and an exit code."""
    accept_any_text()
    sys.argv[1:] = map(_at_home, sys.argv[1:])
    try:
        try:
            app(standalone_mode=True)
        finally:
            flush_output()
    except BenchError as error:
        if "--debug" in sys.argv:
            raise
        from tta_bench.format import plain

        # A message may quote a file, whose content must not control the terminal.
        print(f"Error: {plain(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("Interrupted; completed work is kept.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the pipe is closed, as in `tta-bench list methods | head`
        discard_output()
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC or "--debug" in sys.argv:
            raise
        discard_output()
        print("Error: the disk is full; free some space and try again.", file=sys.stderr)
        sys.exit(FULL)
