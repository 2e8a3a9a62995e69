"""The profile of a device: measured time and memory of a training step by number of samples in its forward.

`training/batch/profile/measure.py` measures it. The file that the plan reads:

    {"device": "...", "memory": bytes, "load_seconds": s, "groups": {"<GroupKey.measured_as>": [[samples, seconds, bytes], ...]}}
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infra.errors import InvalidInput
from training.loop.group import GroupKey


@dataclass(frozen=True)
class Curve:
    """Seconds of a forward with backward, and peak bytes including the base, by rising numbers of samples."""

    samples: tuple[int, ...]
    seconds: tuple[float, ...]
    bytes: tuple[float, ...]

    def seconds_at(self, samples: float) -> float:
        """Interpolated; extrapolated with the last slope."""
        return self._at(self.seconds, samples)

    def bytes_at(self, samples: float) -> int:
        """Peak bytes, interpolated as in `seconds_at`."""
        return int(self._at(self.bytes, samples))

    def _at(self, values: Sequence[float], samples: float) -> float:
        if len(self.samples) == 1:
            return values[0] * samples / self.samples[0]
        right = min(max(bisect.bisect_left(self.samples, samples), 1), len(self.samples) - 1)
        x0, x1 = self.samples[right - 1], self.samples[right]
        y0, y1 = values[right - 1], values[right]
        return max(0.0, y0 + (y1 - y0) * (samples - x0) / (x1 - x0))


class InvalidProfile(InvalidInput):
    """The file is not a profile of a device."""

    default_code = "invalid_profile"


@dataclass(frozen=True)
class Profile:
    """A device's measurements."""

    device: str
    memory: int  # the device's bytes
    load_seconds: float  # time to load a foundation for training
    curves: Mapping[str, Curve] = field(default_factory=dict)

    def curve(self, key: GroupKey) -> Curve | None:
        """The curve of a group; None if it was not measured."""
        return self.curves.get(key.measured_as)

    def best_pack(self, key: GroupKey, batch_size: int, most: int) -> int | None:
        """The number of members with the most steps per second in nine tenths of the memory; at least 1."""
        curve = self.curve(key)
        if curve is None:
            return None
        fitting = [k for k in range(1, most + 1) if curve.bytes_at(k * batch_size) <= 0.9 * self.memory]
        return max(fitting or [1], key=lambda k: k / max(curve.seconds_at(k * batch_size), 1e-9))

    def encode(self) -> str:
        """The file's text."""
        groups = {
            name: list(zip(c.samples, c.seconds, c.bytes, strict=True)) for name, c in self.curves.items()
        }
        content = {
            "device": self.device,
            "memory": self.memory,
            "load_seconds": self.load_seconds,
            "groups": groups,
        }
        return json.dumps(content, indent=1)

    @classmethod
    def parse(cls, text: str, source: str) -> Profile:
        """Parse the file's text. Raises InvalidProfile if it is not a profile."""
        try:
            content = json.loads(text)
            curves = {
                name: Curve(*(tuple(column) for column in zip(*sorted(points), strict=True)))
                for name, points in content["groups"].items()
            }
            profile = cls(
                str(content["device"]), int(content["memory"]), float(content["load_seconds"]), curves
            )
            assert all(len(set(c.samples)) == len(c.samples) and min(c.samples) > 0 for c in curves.values())
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
            raise InvalidProfile(
                f"{source} is not a device profile; measure again with --profile auto."
            ) from None
        return profile
