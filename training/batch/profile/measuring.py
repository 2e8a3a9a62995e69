"""Lanes' measurements of their devices, kept in the registry's storage by kind of device and group.

    measuring = Measuring(registry.storage, owner, device)
    profile = measuring.profile(foundation, key, load_seconds, stopping)  # in a lane: measured if not kept
    profiles = kept_profiles(registry.storage)                   # for a plan: one for each kind of device

Each curve is an object `profiles/<kind of device>/<group>.json` in the format of a profile
(profile.py), so lanes that measure at the same time do not overwrite each other's results. A lane waits
if another lane of its kind is measuring the same (exclusive.py).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from dataclasses import replace

import torch

from infra.errors import UserError
from infra.storage import ObjectNotFound, Storage
from models.foundations.base import Foundation
from training.batch.profile.measure import BUDGET_S, measure_curve, profile_name
from training.batch.profile.profile import InvalidProfile, Profile
from training.batch.state.exclusive import exclusive
from training.batch.state.leased_tasks import LeasedTasks
from training.loop.group import GroupKey
from training.memory import device_memory, device_name

log = logging.getLogger(__name__)

FOLDER, TASKS = "profiles", "profile-turns"
PATIENCE_S = 2 * BUDGET_S  # a measurement may exceed its budget by one step


class Measuring:
    """The measurements of one lane's kind of device.

    Args:
        storage: the registry's.
        owner: the lane's name.
        device: the lane's device; None: CUDA if available.
    """

    def __init__(self, storage: Storage, owner: str, device: str | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.kind = profile_name(self.device)
        self._kept = storage.sub(f"{FOLDER}/{self.kind}")
        self._tasks = LeasedTasks(storage.sub(TASKS), owner, lease_s=PATIENCE_S)

    def profile(
        self, foundation: Foundation, key: GroupKey, load_seconds: float, stopping: threading.Event
    ) -> Profile | None:
        """The kept profile with the curve of this group; else measures it and keeps it.

        Returns None if it cannot be measured: at ZeRO 3, whose base is sharded, and if no step succeeds
        (the concept will meet the same error).

        Args:
            load_seconds: how long the foundation took to load.
            stopping: ends the wait for another lane when set.

        Raises:
            UserError: the storage is unavailable or refuses access.
        """
        if key.zero:
            return None
        name = hashlib.sha256(key.measured_as.encode()).hexdigest()[:16]
        kept = self._read(name, key)
        if kept is not None or stopping.is_set():
            return kept
        with exclusive(self._tasks, f"{self.kind}-{name}", stopping, PATIENCE_S):
            kept = self._read(name, key)  # another lane may have measured it meanwhile
            if kept is None:
                kept = self._measured(foundation, key, load_seconds)
                if kept is not None:
                    self._kept.put(f"{name}.json", kept.encode().encode())
        return kept

    def _measured(self, foundation: Foundation, key: GroupKey, load_seconds: float) -> Profile | None:
        memory = device_memory(self.device)
        try:
            curve = measure_curve(foundation, key, memory=memory)
        except UserError as error:
            log.warning("%s %s could not be measured: %s", key.bucket, key.forward, error.message)
            return None
        return Profile(device_name(self.device), memory, load_seconds, {key.measured_as: curve})

    def _read(self, name: str, key: GroupKey) -> Profile | None:
        profile = _parsed(self._kept, f"{name}.json")
        return profile if profile is not None and profile.curve(key) is not None else None


def kept_profiles(storage: Storage) -> list[Profile]:
    """One profile for each kind of device that was measured for the registry of this storage."""
    kinds: dict[str, Profile] = {}
    folder = storage.sub(FOLDER)
    for info in folder.list():
        kind, found = info.key.split("/")[0], _parsed(folder, info.key)
        if found is not None:
            before = kinds.get(kind, found)
            kinds[kind] = replace(
                found,
                load_seconds=max(before.load_seconds, found.load_seconds),
                curves={**before.curves, **found.curves},
            )
    return list(kinds.values())


def _parsed(storage: Storage, key: str) -> Profile | None:
    """The profile at this key; None if there is none, or if it cannot be read (logged)."""
    try:
        return Profile.parse(storage.get(key).decode(errors="replace"), f"{storage.uri}/{key}")
    except ObjectNotFound:
        return None
    except InvalidProfile as error:
        log.warning("%s", error.message)
        return None
