"""No answer names a folder of this server.

Errors of the store, of the inspection and of vLLM name files by their full paths, which is what
operators need in the log, and what clients must not see.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

_CODE = Path(__file__).resolve().parent.parent


class ServerPaths:
    """Folders of this server, and what clients call them."""

    def __init__(self, folders: Mapping[Path, str]) -> None:
        """`folders`: a name for each; links to them are understood, too."""
        ours = (_CODE, Path(sys.prefix), Path(os.__file__).parent, Path.home())
        known = {**dict.fromkeys(ours, "the server"), **folders}
        names = {str(path): name for path, name in known.items()}
        names |= {str(path.resolve()): name for path, name in known.items()}
        self._names = {path: name for path, name in names.items() if re.match("/.", path)}
        # The longest first: one may lie in another.
        paths = sorted(map(re.escape, self._names), key=len, reverse=True)
        self._pattern = re.compile(rf"(?:{'|'.join(paths)})(?![\w.-])")

    def hide(self, message: str) -> str:
        """The message, with every known folder called by its name."""
        return self._pattern.sub(lambda match: f"<{self._names[match[0]]}>", message)
