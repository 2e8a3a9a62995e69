"""Parts of a video, as players ask for them."""

from __future__ import annotations

import pytest
from fastapi import Request

from serving.http.media import media

CONTENT = b"0123456789"


def answered(**headers: str):
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return media(Request({"type": "http", "headers": raw}), CONTENT, "video/mp4", {"X-Other": "1"})


@pytest.mark.parametrize(
    ("asked", "body", "told"),
    [
        ("bytes=0-", CONTENT, "bytes 0-9/10"),
        ("bytes=0-1", b"01", "bytes 0-1/10"),
        ("bytes=9-99", b"9", "bytes 9-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-99", CONTENT, "bytes 0-9/10"),
    ],
)
def test_a_range_is_answered_with_that_part(asked: str, body: bytes, told: str):
    answer = answered(range=asked)
    assert (answer.status_code, answer.body, answer.headers["content-range"]) == (206, body, told)
    assert answer.headers["x-other"] == "1"
    assert answer.headers["content-length"] == str(len(body))


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=5-4", "bytes=-0"])
def test_a_range_that_is_not_there_is_416(asked: str):
    answer = answered(range=asked)
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */10")


@pytest.mark.parametrize("headers", [{}, {"range": "bytes=-"}, {"range": "bytes=0-1,3-4"}, {"range": "lines=1-2"}, {"range": "bytes=0-1", "if_range": "x"}])  # fmt: skip
def test_anything_else_is_answered_with_the_whole(headers: dict[str, str]):
    answer = answered(**headers)
    assert (answer.status_code, answer.body, answer.headers["accept-ranges"]) == (200, CONTENT, "bytes")
