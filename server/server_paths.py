"""Paths of this server, which clients must not see.

Errors of the store, of the inspection and of vLLM show full paths. Operators need them in the log;
responses show a name in place of each folder.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

_CODE = Path(__file__).resolve().parent.parent


class ServerPaths:
    """Folders of this server, with the names that clients see."""

    def __init__(self, folders: Mapping[Path, str]) -> None:
        """`folders`: folder -> name; symbolic links are resolved too."""
        code = (_CODE, Path(sys.prefix), Path(os.__file__).parent, Path.home())
        folders = {**dict.fromkeys(code, "the server"), **folders}
        names = {str(path): name for path, name in folders.items()}
        names |= {str(path.resolve()): name for path, name in folders.items()}
        self._names = {path: name for path, name in names.items() if re.match("/.", path)}
        # The longest first, because folders may be nested.
        paths = sorted(map(re.escape, self._names), key=len, reverse=True)
        self._pattern = re.compile(rf"(?:{'|'.join(paths)})(?![\w.-])")

    def hide(self, message: str) -> str:
        """Return the message with names in place of folders."""
        return self._pattern.sub(lambda match: f"<{self._names[match[0]]}>", message)
