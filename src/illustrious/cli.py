"""The command line: parse, call, print."""

import subprocess
import sys
from pathlib import Path

import typer

from illustrious import __version__

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Illustrious AI Studio")


@app.callback()
def illustrious() -> None:
    """A self-hosted studio that draws, chats and looks at pictures."""


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(context: typer.Context) -> None:
    """Run the whole suite: style, types, arrows, tests. Further arguments go to pytest."""
    root = Path.cwd()
    if not (root / "tests").is_dir():
        typer.echo("The tests are part of the source tree: run `python main.py test` there.", err=True)
        raise typer.Exit(2)
    checks = [
        [sys.executable, "-m", "ruff", "check", "."],
        [sys.executable, "-m", "mypy"],
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        [sys.executable, "-m", "pytest", *context.args],
    ]
    failed = [check for check in checks if subprocess.run(check, cwd=root).returncode]
    for check in failed:
        typer.echo(f"failed: {' '.join(check[1:])}", err=True)
    raise typer.Exit(1 if failed else 0)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):  # a console that is not UTF-8 must not crash on ✅
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    app()
