"""Answers with a video that is in memory, whole or the part that a player asks for (RFC 9110, Range).

Safari plays a video only from a server that answers ranges.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fastapi import Request, Response

RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")  # one range; several are answered with the whole


def media(request: Request, content: bytes, media_type: str, headers: Mapping[str, str] = {}) -> Response:
    """The content: 200 with all of it, 206 with the requested range, or 416 if there is no such range."""
    told = {"Accept-Ranges": "bytes", **headers}
    asked = RANGE.fullmatch(request.headers.get("range", "").strip())
    if asked is None or not any(asked.groups()) or "if-range" in request.headers:
        return Response(content, media_type=media_type, headers=told)
    first, last = asked.groups()
    start = int(first) if first else max(0, len(content) - int(last))
    end = min(int(last), len(content) - 1) if first and last else len(content) - 1
    if start > end:
        return Response(status_code=416, headers={**told, "Content-Range": f"bytes */{len(content)}"})
    told["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
    return Response(content[start : end + 1], status_code=206, media_type=media_type, headers=told)
