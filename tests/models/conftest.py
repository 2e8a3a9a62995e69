import pytest
import torch

from models.load import load_foundation

FAMILIES = ("unet3d", "wan")


@pytest.fixture(params=FAMILIES)
def foundation(request):
    """A fresh tiny random foundation of each family, in float32 on the CPU."""
    return load_foundation(f"tiny-random:{request.param}", device="cpu", dtype=torch.float32)


@pytest.fixture
def fill():
    """Fill a bank's slot with random values so that the adapter changes the output."""

    def fill_slot(bank, path, slot, seed=0, std=0.1):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, (a, b) in bank.extract(path, slot).items():
            tensors[name] = (
                torch.randn(a.shape, generator=generator) * std,
                torch.randn(b.shape, generator=generator) * std,
            )
        bank.write(path, slot, tensors)
        return tensors

    return fill_slot
