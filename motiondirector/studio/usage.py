"""The page Usage: what the visitor's tenant used, by day and model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from motiondirector.studio.signin import Visitor
from motiondirector.studio.templating import render
from serving.http.dependencies import service_of

router = APIRouter()
DAYS = 31


@router.get("/usage")
async def usage_page(
    request: Request, visitor: Visitor, days: Annotated[int, Query(ge=1, le=3660)] = DAYS
) -> Response:
    """The jobs of the last days, newest first, and their sums."""
    visitor.check("videos:read")
    first = f"{datetime.now(UTC) - timedelta(days=days - 1):%Y-%m-%d}"
    rows = await service_of(request).usage(visitor.tenant, first, "9999-12-31")
    sums = {
        "videos": sum(row.jobs for row in rows if row.kind == "video"),
        "frames": sum(row.frames for row in rows),
        "trainings": sum(row.jobs for row in rows if row.kind == "training"),
        "minutes": sum(row.device_seconds for row in rows) / 60,
    }
    return render(request, "usage.html.j2", rows=rows[::-1], sums=sums, days=days)
