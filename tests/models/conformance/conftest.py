"""Every checkpoint of models/tiny/ passes or fails each test of this folder: a new family adds nothing here.

docs/adding-a-foundation.md says what a family must do, and which test holds it to that.
"""

import functools

import pytest
import torch

from models.load import load_foundation
from models.tiny import RECIPES


@functools.cache
def loaded(name):
    return load_foundation(f"tiny-random:{name}", device="cpu", dtype=torch.float32)


# Those whose videos begin with an image have tests of their own (tests/models/test_wan_image.py).
FROM_TEXT = sorted(name for name in RECIPES if not name.startswith("wan-image"))


@pytest.fixture(params=FROM_TEXT)
def foundation(request):
    """A tiny random foundation of each kind, in float32 on the CPU; without a bank, before and after the test."""
    found = loaded(request.param)
    yield found
    if found.bank is not None:
        found.bank.remove()
        found._bank = None
