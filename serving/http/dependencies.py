"""What routes are given: the service of their application."""

from typing import Annotated

from fastapi import Depends, Request

from serving.http.service import VideoService


def service_of(request: Request) -> VideoService:
    """The service of a request's application."""
    return request.app.state.service


Service = Annotated[VideoService, Depends(service_of)]
