"""The file of a version's noise prior: the inverted latents of its references, so that serving needs no clips.

    noise_prior/8x64x64.safetensors     `noise` [N, C, f, h, w] float16, for videos of this size (frames, height, width)

The size is in the file's name: a server refuses another one before it fetches anything. The file lies in a folder of its own,
because stock LoRA loaders choose among all safetensors files beside adapter_model.safetensors.

Inverted latents give back the clip, about: who publishes them publishes the references.

Shapes: N references, C f h w latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from infra.errors import InvalidInput, NotFound, UserError
from infra.files import atomic_file
from infra.storage.objects import sha256_file
from models.adapters.file import with_sorted_header
from models.adapters.versions import MAX_NOISE_BYTES, noise_file
from models.foundations.base import Bucket, Foundation
from models.generation import InvertedNoise
from models.inversion import ITERATIONS, STEPS

REFERENCES = 4  # most in a file: each costs an inversion
SCHEMA = "1"


@dataclass(frozen=True)
class StoredNoise:
    """A noise prior as it was read."""

    noise_NCfhw: Tensor  # float16, on the CPU
    sha256: str  # of the file

    def inverted(self, seed: int, weight: float, source: str) -> InvertedNoise:
        """The prior of one video. Of several references its seed picks one: number `seed` modulo N.

        Args:
            source: identifies the prior in the video's metadata.
        """
        noise_Cfhw = self.noise_NCfhw[seed % len(self.noise_NCfhw)].float()
        return InvertedNoise(weight=weight, noise_Cfhw=noise_Cfhw, source=source)


def write_noise(folder: Path, foundation: Foundation, bucket: Bucket, noises: Sequence[Tensor]) -> Path:
    """Write the noise prior of a version below its folder; the same noises give the same bytes.

    Args:
        noises: [C, f, h, w] of 1 to REFERENCES references, as `models.inversion.invert` returns them.

    Raises InvalidInput for values beyond float16.
    """
    assert 1 <= len(noises) <= REFERENCES, len(noises)
    file = folder / noise_file(bucket)
    told = {
        "format": "pt",
        "schema": SCHEMA,
        "family": foundation.family,
        "foundation": foundation.name,
        "foundation_fingerprint": foundation.fingerprint,
        "size": str(bucket),
        "steps": str(STEPS),
        "iterations": str(ITERATIONS),
    }
    noise_NCfhw = torch.stack(list(noises)).to(torch.float16).contiguous()
    with atomic_file(file) as temporary:
        temporary.write_bytes(with_sorted_header(save({"noise": noise_NCfhw}, metadata=told)))
    read_noise(file, foundation)
    return file


def read_noise(file: Path, foundation: Foundation) -> StoredNoise:
    """Read and validate a noise prior. Nothing is ever unpickled, and nothing large is read before it is checked.

    Raises:
        NotFound: no such file.
        InvalidInput: too large, not a noise prior, of another foundation, or not finite.
    """
    if not file.is_file():
        raise NotFound(f"noise prior {file}: no such file.", code="noise_prior_not_found")
    if file.stat().st_size > MAX_NOISE_BYTES:
        raise _refused(file, f"it has {file.stat().st_size} bytes; at most {MAX_NOISE_BYTES} are read.")
    try:
        with safe_open(file, framework="pt") as opened:
            told = dict(opened.metadata() or {})
            names = list(opened.keys())
            if names != ["noise"]:
                raise _refused(file, f"it has {len(names)} tensors; expected one, `noise`.")
            part = opened.get_slice("noise")
            _check_shape(file, foundation, told, part.get_dtype(), tuple(part.get_shape()))
            # A copy: the tensor is a view of the file, which may be evicted or damaged while a request waits.
            noise_NCfhw = opened.get_tensor("noise").clone()
    except (SafetensorError, ValueError, OSError, RuntimeError) as error:
        raise _refused(
            file, f"not a whole safetensors file ({' '.join(str(error).split())[:120]})."
        ) from None
    if not torch.isfinite(noise_NCfhw).all():
        raise _refused(file, "it has NaN or infinite values; train the concept again in fp32.")
    return StoredNoise(noise_NCfhw, sha256_file(file))


def _check_shape(
    file: Path, foundation: Foundation, told: dict[str, str], dtype: str, shape: tuple[int, ...]
) -> None:
    """Raise InvalidInput unless the header describes noise of this foundation and of a size that it can make."""
    theirs = told.get("foundation_fingerprint", "")
    if theirs != foundation.fingerprint:
        raise _refused(
            file,
            f"made for foundation {told.get('foundation', 'unknown')[:80]!a} ({theirs[:12]!a}), not for {foundation.name} "
            f"({foundation.fingerprint[:12]}); use that foundation or train again.",
            "foundation_mismatch",
        )
    try:
        bucket = Bucket.parse(told.get("size", ""))
        foundation.check_bucket(bucket)
    except UserError as error:
        raise _refused(file, f"its header gives no usable size: {error.message}") from None
    expected = foundation.latent_shape(bucket)
    if dtype != "F16" or len(shape) != 5 or shape[1:] != expected or not 1 <= shape[0] <= REFERENCES:
        raise _refused(
            file,
            f"its noise is {dtype} {list(shape)}; expected F16 [1 to {REFERENCES}, {', '.join(map(str, expected))}] for "
            f"{bucket}.",
        )


def _refused(file: Path, reason: str, code: str = "invalid_noise_prior") -> InvalidInput:
    return InvalidInput(f"noise prior {file.name}: {reason}", code=code)
