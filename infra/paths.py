"""A path as a person wrote it: `~`, back slashes as separators, letters composed otherwise than in the file's name."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path


def expanded(text: str | Path) -> Path:
    """The path with a leading `~` or `~user` as that home folder.

    Unlike `Path.expanduser`, a name such as `~clip.mp4`, which is nobody's home, stays as it is.
    """
    return Path(os.path.expanduser(text))


def composed(text: str) -> str:
    """A name for comparison: file systems and editors differ in whether é is one character or two."""
    return unicodedata.normalize("NFC", text)


def there(path: Path) -> bool:
    """Whether something has this name, a broken link included. False also for what no path can be."""
    try:
        path.lstat()
    except (OSError, ValueError):  # absent, too long, behind a folder that may not be read, with a NUL
        return False
    return True


def as_written(path: Path) -> Path:
    """The path of what is there under the name that was written.

    The very name comes first. Else back slashes count as separators, and a name composed otherwise (Unicode's NFC and
    NFD) counts as the same. Where nothing is found the path comes back with its separators put right.
    """
    if there(path):
        return path
    if "\\" in str(path):
        path = Path(str(path).replace("\\", "/"))
        if there(path):
            return path
    return _respelt(path) or path


def _respelt(path: Path) -> Path | None:
    """The path with each part as its folder spells it; None when a part is not there."""
    found = Path(path.anchor)
    for part in path.relative_to(path.anchor).parts:
        if part == ".." or there(found / part):
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
