"""A griffe extension for the reference: labels of docstrings, such as `Source:`, begin paragraphs of their own."""

from __future__ import annotations

import re
from typing import Any

import griffe

LABELS = ("Source", "Differs", "Defaults", "Raise", "Raises", "Two forms", "Shapes")
LABEL = re.compile(rf"\n(?=(?:{'|'.join(LABELS)})\b[^\n]*)")


class Labels(griffe.Extension):
    """Put an empty line before each label; Markdown would join them into one paragraph."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for every object that it has read."""
        if obj.docstring is not None:
            obj.docstring.value = LABEL.sub("\n\n", obj.docstring.value)
