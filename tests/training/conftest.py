"""Tiny models and a batch for the training tests."""

import pytest

from models.load import load_foundation


@pytest.fixture(params=["unet3d", "wan"])
def foundation(request):
    return load_foundation(f"tiny-random:{request.param}", device="cpu", dtype="float32")


@pytest.fixture
def unet3d():
    return load_foundation("tiny-random:unet3d", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def house_clips(tmp_path_factory):
    from clip_sets import sliding_clips, write_set

    made = [clip for number in range(4) for clip in sliding_clips(f"c{number}", count=1 + number % 2)]
    return write_set(tmp_path_factory.mktemp("clips"), *made)


@pytest.fixture(scope="session")
def house_foundation():
    return load_foundation("tiny-random:wan", device="cpu", dtype="float32")


@pytest.fixture
def house(tmp_path, house_clips, monkeypatch, house_foundation):
    """A batch with lanes (lane_house.py): concepts c0 to c3, alternately with one and two clips."""
    from lane_house import House

    return House(tmp_path, house_clips, monkeypatch, house_foundation)
