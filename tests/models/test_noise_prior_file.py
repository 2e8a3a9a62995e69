"""The file of a noise prior: the same bytes for the same noise, and whatever is not one is refused before it is used."""

import pickle

import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import save_file
from sample_adapters import plain_adapter

from infra.errors import InvalidInput, NotFound
from infra.registry import ADAPTER_FILE, open_registry
from models.adapters import noise_prior
from models.adapters.file import save_adapter
from models.adapters.noise_prior import REFERENCES, read_noise, write_noise
from models.adapters.versions import noise_file, noise_of
from models.foundations.base import Bucket
from models.load import load_foundation, locate


@pytest.fixture(scope="module")
def unet3d():
    return load_foundation("tiny-random:unet3d", device="cpu", dtype=torch.float32)


def noises(foundation, count=2):
    shape = foundation.latent_shape(foundation.defaults.bucket)
    return [torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n in range(count)]


def written(folder, foundation, count=2):
    return write_noise(folder, foundation, foundation.defaults.bucket, noises(foundation, count))


def test_a_noise_prior_returns_from_its_file_and_the_seed_picks_the_reference(foundation, tmp_path):
    file = written(tmp_path, foundation)
    bucket = foundation.defaults.bucket
    assert file == tmp_path / "noise_prior" / f"{bucket}.safetensors"
    stored = read_noise(file, foundation)
    for seed in (0, 1, 6, 7):
        one = stored.inverted(seed, 0.3, "orbit@1")
        torch.testing.assert_close(
            one.noise_Cfhw, noises(foundation)[seed % 2], rtol=1e-3, atol=1e-4
        )  # float16
        assert (one.weight, one.source, one.noise_Cfhw.dtype) == (0.3, "orbit@1", torch.float32)


def test_the_same_noise_has_the_same_bytes(unet3d, tmp_path):
    one, other = (written(tmp_path / name, unet3d) for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    assert read_noise(one, unet3d).sha256 == read_noise(other, unet3d).sha256


def header(foundation, /, **changes):
    told = {
        "foundation": foundation.name,
        "foundation_fingerprint": foundation.fingerprint,
        "size": str(foundation.defaults.bucket),
    }
    return {**told, **changes}


def test_what_is_no_noise_prior_of_this_foundation_is_refused(unet3d, tmp_path):
    good = torch.stack(noises(unet3d)).half()
    wrong = {
        "expected one, `noise`": ({"noise": good, "more": good.clone()}, {}),
        "it has 1 tensors": ({"latents": good}, {}),
        "its noise is F32": ({"noise": good.float()}, {}),
        r"expected F16 \[1 to 4, 4, 4, 4, 4\]": ({"noise": good[:, :, :2].contiguous()}, {}),
        r"its noise is F16 \[4, 4, 4, 4\]": ({"noise": good[0]}, {}),
        r"its noise is F16 \[6": ({"noise": good.repeat(3, 1, 1, 1, 1)}, {}),
        "NaN or infinite": ({"noise": good * float("nan")}, {}),
        "no usable size: size 'big'": ({"noise": good}, {"size": "big"}),
        "no usable size: height 31": ({"noise": good}, {"size": "4x31x32"}),
        "made for foundation 'other' .'ffffffffffff'., not for": (
            {"noise": good},
            {"foundation": "other", "foundation_fingerprint": "f" * 64},
        ),
    }
    file = tmp_path / "prior.safetensors"
    for message, (tensors, changes) in wrong.items():
        save_file(tensors, file, metadata=header(unet3d, **changes))
        with pytest.raises(InvalidInput, match=f"noise prior prior.safetensors: .*{message}") as caught:
            read_noise(file, unet3d)
        expected = "foundation_mismatch" if "foundation" in changes else "invalid_noise_prior"
        assert caught.value.code == expected
    save_file({"noise": good}, file)
    with pytest.raises(InvalidInput, match="made for foundation 'unknown'"):
        read_noise(file, unet3d)


def test_a_file_that_is_no_safetensors_or_too_large_is_never_loaded(unet3d, tmp_path, monkeypatch):
    file = tmp_path / "prior.safetensors"
    file.write_bytes(pickle.dumps({"noise": 1}))
    with pytest.raises(InvalidInput, match="not a whole safetensors file"):
        read_noise(file, unet3d)
    whole = written(tmp_path, unet3d).read_bytes()
    file.write_bytes(whole[:-5])
    with pytest.raises(InvalidInput, match="not a whole safetensors file"):
        read_noise(file, unet3d)
    file.write_bytes(whole)
    monkeypatch.setattr(noise_prior, "MAX_NOISE_BYTES", len(whole) - 1)
    monkeypatch.setattr(noise_prior, "safe_open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(InvalidInput, match=f"it has {len(whole)} bytes; at most {len(whole) - 1} are read"):
        read_noise(file, unet3d)
    with pytest.raises(NotFound, match="no such file"):
        read_noise(tmp_path / "nothing", unet3d)


def test_noise_beyond_float16_is_not_written(unet3d, tmp_path):
    huge = [noises(unet3d, 1)[0] * 1e6]
    with pytest.raises(InvalidInput, match="NaN or infinite"):
        write_noise(tmp_path, unet3d, unet3d.defaults.bucket, huge)
    with pytest.raises(AssertionError):
        write_noise(tmp_path, unet3d, unet3d.defaults.bucket, noises(unet3d, REFERENCES + 1))


def test_a_version_tells_which_sizes_its_noise_prior_is_for(unet3d, tmp_path):
    registry, folder, bucket = open_registry(tmp_path / "registry"), tmp_path / "version", Bucket(4, 32, 32)
    save_adapter(folder, plain_adapter(unet3d, up=0), unet3d)
    bare = registry.publish("orbit", folder, metadata={})
    with pytest.raises(InvalidInput, match="orbit@1 has no noise prior; name a version") as caught:
        noise_of(bare, bucket)
    assert caught.value.code == "noise_prior_missing"
    file = write_noise(folder, unet3d, bucket, noises(unet3d))
    (folder / "noise_prior" / "notes.safetensors").write_bytes(b"not a size")
    version = registry.publish("orbit", folder, metadata={})
    assert noise_of(version, bucket).size == file.stat().st_size
    with pytest.raises(
        InvalidInput, match=r"for 4x32x32 .*, but the video is 8x32x32; request that size"
    ) as caught:
        noise_of(version, Bucket(8, 32, 32))
    assert caught.value.code == "noise_prior_size"
    version.files[noise_file(bucket)] = type(version.files[ADAPTER_FILE])("0" * 64, 1 << 40)
    with pytest.raises(InvalidInput, match="at most 268435456 are allowed"):
        noise_of(version, bucket)


def test_a_stock_loader_finds_the_adapter_beside_a_noise_prior(tmp_path):
    foundation = load_foundation("tiny-random:wan", device="cpu", dtype=torch.float32)
    written(tmp_path, foundation)
    save_adapter(tmp_path, plain_adapter(foundation, up=0), foundation)
    pipeline = WanPipeline.from_pretrained(locate("tiny-random:wan"))
    pipeline.load_lora_weights(str(tmp_path))  # it chooses the file itself
    assert pipeline.get_list_adapters() == {"transformer": ["default_0"]}
