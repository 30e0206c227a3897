"""Commands on what there is: methods, models, data sets, the schema, the cache; and a method of your own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.cli.options import AsJson, Plugins, app, console

if TYPE_CHECKING:
    from kdbench.registry import Registry


PANEL = "What there is"


@app.command("methods", rich_help_panel=PANEL)
def list_methods(
    matrix: Annotated[
        bool, typer.Option("--matrix", help="Run every method on pairs of tiny networks, and print what comes of it.")
    ] = False,
    as_json: AsJson = False,
    plugins: Plugins = None,
) -> None:
    """List the methods and their hyper-parameters, or check that all of them work on all kinds of networks."""
    from kdbench.method import methods

    if not matrix:
        list_registry(methods, as_json)
        return
    from kdbench.testing.matrix import matrix_of

    kinds = {name: methods.get(name) for name in methods.names()}
    found = matrix_of(kinds, progress=None if as_json else console())
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else found.text())
    raise typer.Exit(1 if found.failed else 0)


@app.command("models", rich_help_panel=PANEL)
def list_models(as_json: AsJson = False, plugins: Plugins = None) -> None:
    """List the model families and their sizes."""
    from kdbench.models import models

    list_registry(models, as_json)


def list_registry(registry: Registry[Any], as_json: bool) -> None:
    """Print the name, first line and declared fields of registered classes."""
    from kdbench.fields import fields_of
    from kdbench.plugins import origin

    rows: dict[str, Any] = {}
    for name in registry.names():
        owner = registry.get(name)
        fields = {
            field.name: {
                "default": field.default,
                "search": field.search.to_json() if field.search else None,
                "allowed": field.allowed,
            }
            for field in fields_of(owner).values()
        }
        summary = (owner.__doc__ or "").strip().split("\n")[0]
        rows[name] = {"summary": summary, "plugin": origin(owner), "fields": fields}
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for name, row in rows.items():
        typer.echo(f"{name}{source_of(row['plugin'])}: {row['summary']}")
        for field, facts in row["fields"].items():
            searched = f", searched in {facts['search']}" if facts["search"] else ""
            allowed = f", one of {', '.join(map(str, facts['allowed']))}" if facts["allowed"] else ""
            typer.echo(f"    {field} = {facts['default']}{searched}{allowed}")


def source_of(plugin: dict[str, str] | None) -> str:
    """` (my_method.py)` or ` (package 1.2)` for a plug-in, nothing for kdbench's own."""
    if plugin is None:
        return ""
    return f" ({plugin['distribution']} {plugin['version']})" if "distribution" in plugin else f" ({plugin['file']})"


@app.command("datasets", rich_help_panel=PANEL)
def list_datasets(as_json: AsJson = False, plugins: Plugins = None) -> None:
    """List the data sets that are known or lie in the data root."""
    from kdbench import data

    rows = data.listing()
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    typer.echo(f"data root: {data.data_root()}")
    for name, facts in rows.items():
        if "error" in facts:
            typer.echo(f"{name}: cannot be read: {facts['error']}")
            continue
        shape = facts["image_shape"]
        samples = f"images {'x'.join(map(str, shape))}" if len(shape) == 3 else f"rows of {shape[0]} numbers"
        here = "" if facts["available"] else " (not on this machine yet)"
        typer.echo(f"{name}: {facts['title']}, {facts['n_train']} {samples}, {facts['classes']} classes{here}")


@app.command(rich_help_panel=PANEL)
def schema(plugins: Plugins = None) -> None:
    """Print the JSON schema of study files, for editors."""
    from kdbench.study.json_schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=1))


@app.command(rich_help_panel=PANEL)
def cache(
    verify: Annotated[bool, typer.Option("--verify", help="Read every entry and count the damaged ones.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Remove all of them.")] = False,
) -> None:
    """List, verify or clear what studies share: teachers, their outputs for every view, and images of folders."""
    from kdbench import data
    from kdbench.labels import count_label
    from kdbench.train import shelf, view_files
    from kdbench.train.view_table import cache_folder

    typer.echo(f"folder: {cache_folder()}")
    damaged = view_files.check_caches() if verify else {}
    for file in view_files.list_caches():
        found = f", {damaged[file.path]} damaged entries" if file.path in damaged else ""
        share = f", {100 * file.filled / file.entries:.1f} % of {file.entries} entries filled" if file.entries else ""
        typer.echo(f"{file.path.name}: {file.state}{share}, {count_label(file.disk_bytes)}B on disk{found}")
    typer.echo(f"teachers: {shelf.shelf_folder() or 'not shared, for KDBENCH_CACHE is off'}")
    for teacher in shelf.list_shelf():
        what = f"{teacher.what}, " if teacher.what else ""
        typer.echo(f"{teacher.key}: {teacher.state}, {what}{count_label(teacher.disk_bytes)}B on disk")
    images = list(data.cached())
    for path, disk_bytes in images:
        typer.echo(f"{path.name}: images of a folder, {count_label(disk_bytes)}B on disk")
    if clear:
        data.clear_cached()
        freed = view_files.clear() + shelf.clear_shelf() + sum(disk_bytes for _, disk_bytes in images)
        typer.echo(f"removed {count_label(freed)}B")


@app.command("new-method", rich_help_panel=PANEL)
def new_method(
    name: Annotated[str, typer.Argument(help="Name of the method, in snake_case.", show_default=False)],
    folder: Annotated[Path, typer.Option("--dir", help="Folder for the two files.")] = Path(),
) -> None:
    """Write a method that works, with its test, for you to change."""
    from kdbench.scaffold import write_method

    method, test = write_method(name, folder)
    typer.echo(f"wrote {method} and {test}")
    typer.echo(f"check it:   kdbench check-method {method}\n      or:   pytest {test}")
    typer.echo(f"compare it: kdbench run STUDY --plugin {method}, with `{name}:` among the methods of the study")


@app.command("check-method", rich_help_panel=PANEL)
def check_method(
    method: Annotated[str, typer.Argument(help="Name of a method, or a file that defines some.", show_default=False)],
    quick: Annotated[bool, typer.Option("--quick", help="Without the trainings: seconds instead of a minute.")] = False,
    plugins: Plugins = None,
) -> None:
    """Check that a method keeps the contract: every mistake is named, with what to do about it."""
    from kdbench.scaffold import check_methods

    raise typer.Exit(0 if check_methods(method, quick, typer.echo) else 1)
