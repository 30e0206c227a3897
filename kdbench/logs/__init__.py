"""`kdbench logs`: all that a study's folder knows about one training, or the trainings of a row.

find.py finds them, story.py tells one as plain values, view.py prints it.
"""

from __future__ import annotations

import json
from pathlib import Path

from kdbench.logs.find import named, traces
from kdbench.logs.story import brief, story_of
from kdbench.logs.view import brief_lines, story_lines
from kdbench.record import finite
from kdbench.redact import shown

__all__ = ["show"]


def show(text: str, results: Path, as_json: bool) -> None:
    """Print what a key or a row names. Raise KdbenchError that says what there is if nothing fits."""
    found = [traces(folder, key) for folder, key in named(text, results)]
    if len(found) == 1:
        story = story_of(found[0])
        print(json.dumps(finite(story), indent=1) if as_json else shown("\n".join(story_lines(story))))
        return
    rows = [brief(one) for one in found]
    print(json.dumps(finite(rows), indent=1) if as_json else shown("\n".join(brief_lines(rows))))
