"""Hooks of mkdocs: pages that lie at the top of the repository, and links that lead out of docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {"CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md"}
METHOD = re.compile(r"\]\((?:\.\./)?kdbench/methods/(\w+)\.py\)")
OUTSIDE = re.compile(r"\[([^\]]*)\]\((?!https?://|#|mailto:)((?:\.\./)?[^)#]+)(#[^)]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the repository's top folder, with links as they would be within docs/."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text("utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(text: str, page: Any, config: Any, files: Any) -> str:
    """Lead links to a method's file to its reference, and write the path where nothing of the site has it."""
    known = {file.src_uri for file in files}
    folder = Path(page.file.src_uri).parent
    text = METHOD.sub(
        lambda found: f"]({'../' * (len(folder.parts))}reference/methods.md#kdbench.methods.{found[1]})", text
    )

    def inside(found: re.Match[str]) -> str:
        name, path, anchor = found[1], found[2], found[3] or ""
        plain = path.removeprefix("../")
        if plain in PAGES:
            return f"[{name}]({PAGES[plain]}{anchor})"
        if plain.endswith(".md") and (folder / path).as_posix().removeprefix("./") in known:
            return found[0]
        is_repository = (ROOT / plain).exists() and not (ROOT / "docs" / folder / path).exists()
        return (
            f"{name} (`{plain}`)"
            if is_repository and name.strip("`") != plain
            else (f"`{plain}`" if is_repository else found[0])
        )

    return OUTSIDE.sub(inside, text)
