"""The text of PyPI's page: the README without its links to files, which lead nowhere there.

A link to a file becomes its text, and a sentence says where the files are. There is no address of ours to make them
absolute with; once there is one, this hook and `dynamic` in pyproject.toml can go.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"\[([^\]]*)\]\((?!https?://)[^)]*\)")
_WHERE = "\nThe pages named here come with the source distribution, the `.tar.gz` among the files on PyPI.\n"


class ReadmeHook(MetadataHookInterface):
    """See https://hatch.pypa.io/latest/plugins/metadata-hook/custom/."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description."""
        text = _LINK.sub(r"\1", Path(self.root, "README.md").read_text(encoding="utf-8"))
        metadata["readme"] = {"content-type": "text/markdown", "text": text + _WHERE}
