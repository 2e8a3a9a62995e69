"""Whether the service may compile a foundation's forward."""

import pytest
import torch


def test_a_forward_is_one_graph_if_its_family_says_so(foundation):
    if not foundation.compiles:
        pytest.skip("the service refuses to compile it")
    latents = torch.randn(1, *foundation.latent_shape(foundation.defaults.bucket))
    given = (latents, foundation.noise.timesteps(torch.tensor([0.5])), foundation.encode_text(["a cat"]))
    torch._dynamo.reset()
    compiled = torch.compile(foundation._predict, fullgraph=True, dynamic=False, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(*given), foundation._predict(*given), atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()
