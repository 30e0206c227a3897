"""What the commands have in common: the application, arguments and options, and what they mean."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.errors import KdbenchError

if TYPE_CHECKING:
    from rich.console import Console

    from kdbench.study.schema import Study

app = typer.Typer(
    help="Compare ways of making models small: fairly, fast, and with numbers that hold.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

StudyFile = Annotated[Path, typer.Argument(help="A study file, such as studies/digits.yaml.", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field of the study; may be given several times."),
]


def use_plugins(files: list[Path] | None) -> list[Path] | None:
    """Load the files of --plugin, before anything else is looked at."""
    if files:
        from kdbench.plugins import name_files

        name_files(files)
    return files


Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", metavar="FILE", callback=use_plugins, is_eager=True,
        help="A Python file with a method, model family or data set of your own; may be given several times.",
    ),
]  # fmt: skip
Results = Annotated[Path, typer.Option("--results", help="Folder that holds one folder per study.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
STUDY = "A study file, or the folder of a study that has been run."


def reading() -> None:
    """To be called where a command reads records and does little else: these are many objects and no garbage, and
    looking for it again and again took a third of the time."""
    gc.set_threshold(200_000, 50, 100)


def console() -> Console:
    """Standard output as rich sees it."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True)


def seconds(text: str | None) -> float | None:
    """A duration such as `90s`, `20m`, `1.5h`, or plain seconds."""
    if text is None:
        return None
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], text[-1]) if text and text[-1] in units else (text, "s")
    try:
        value = float(number) * units[unit]
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise KdbenchError(f"--budget: got '{text}'. Allowed: a duration above zero such as 90s, 20m or 1.5h.")
    return value


def load(path: Path, overrides: list[str] | None) -> Study:
    """The study of a file, with overrides."""
    from kdbench.study.load import load_study

    return load_study(path, overrides or [])


def folder_of(study: Path, results: Path) -> Path:
    """The folder of a study, given as its file or as the folder itself. Raise KdbenchError if it does not exist."""
    if study.is_file():
        study = results / load(study, None).study
    if not (study / "study.json").exists():
        raise KdbenchError(f"{study} is not the folder of a study: it has no study.json. Run the study first.")
    return study
