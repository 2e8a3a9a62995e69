"""The API's documentation page at /docs: Swagger UI, served from `serving/http/swagger_ui`."""

from __future__ import annotations

import functools
import gzip
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

FOLDER = Path(__file__).parent / "swagger_ui"
PAGE = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>MotionDirector</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = (
    b'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});\n'
)
PACKED = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
SAFE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
pages = APIRouter(include_in_schema=False)


@pages.get("/docs")
async def docs() -> Response:
    """The documentation page."""
    return Response(PAGE, media_type="text/html", headers=SAFE)


@pages.get("/docs/{name}")
async def part(name: str, request: Request) -> Response:
    """The scripts and styles that the page loads."""
    headers = {**SAFE, "Cache-Control": "public, max-age=86400", "Vary": "Accept-Encoding"}
    if name == "start.js":
        return Response(START, media_type="text/javascript", headers=headers)
    if name not in PACKED:
        raise HTTPException(404)
    content = packed(name)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
    else:
        content = gzip.decompress(content)
    return Response(content, media_type=PACKED[name], headers=headers)


@functools.cache
def packed(name: str) -> bytes:
    """A file of Swagger UI, compressed with gzip."""
    return (FOLDER / f"{name}.gz").read_bytes()
