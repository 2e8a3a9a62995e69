"""Where this project lies, and paths as people write them: `~`, backslashes, another Unicode normal form."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent  # of the checkout; of site-packages if installed


def expanded(text: str | Path) -> Path:
    """The path with a leading `~` or `~user` replaced by that home folder.

    Unlike `Path.expanduser`, keeps a name such as `~clip.mp4`, which is no user's home.
    """
    return Path(os.path.expanduser(text))


def composed(text: str) -> str:
    """The name in NFC, for comparison: file systems and editors write é as one character or as two."""
    return unicodedata.normalize("NFC", text)


def lexists(path: Path) -> bool:
    """Whether this path exists; a broken link does. False also for an impossible path."""
    try:
        path.lstat()
    except (OSError, ValueError):  # absent, too long, in an unreadable folder, with a NUL
        return False
    return True


def as_written(path: Path) -> Path:
    """The existing path that the given one means.

    The exact name is tried first. Then backslashes count as separators, and names that differ only in
    Unicode normalization (NFC, NFD) match. If nothing is found, returns the path with normal separators.
    """
    if lexists(path):
        return path
    if "\\" in str(path):
        path = Path(str(path).replace("\\", "/"))
        if lexists(path):
            return path
    return _respelt(path) or path


def _respelt(path: Path) -> Path | None:
    """The path with each part spelled as in its folder; None if a part does not exist."""
    found = Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        if part == ".." or lexists(found / part):
            found /= part
            continue
        try:
            names = sorted(name for name in os.listdir(found) if composed(name) == composed(part))
        except OSError:
            return None
        if not names:
            return None
        found /= names[0]
    return found
