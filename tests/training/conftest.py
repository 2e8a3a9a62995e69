"""Tiny models to train."""

import pytest

from models.load import load_foundation


@pytest.fixture(params=["unet3d", "wan"])
def foundation(request):
    return load_foundation(f"tiny-random:{request.param}", device="cpu", dtype="float32")


@pytest.fixture
def unet3d():
    return load_foundation("tiny-random:unet3d", device="cpu", dtype="float32")
