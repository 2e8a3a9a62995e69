"""Ray Train's torch trainer without the helper processes that our trainings do not need.

Each helper is a process that imports Ray Train: seconds of CPU time in every run.
"""

from __future__ import annotations

from typing import Any

from training.ray.processes import on_one_machine


def torch_trainer(*arguments: Any, **options: Any) -> Any:
    """A `ray.train.torch.TorchTrainer` with these arguments.

    It starts no manager of Ray Datasets, because our workers read latents themselves. In a session that was started
    for this training (`processes.on_one_machine`) it starts no cleaner of placement groups: they end with the session.
    The cleaner would also delay the end of the training by 5 to 10 s, because it asks the dashboard, which such a
    session does not have. Ray 2.60 has no option for either.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    unneeded: tuple[type, ...] = (DatasetsCallback,)
    if on_one_machine():
        unneeded += (PlacementGroupCleanerCallback,)

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            made = super()._create_default_callbacks()  # type: ignore[misc]
            return [callback for callback in made if not isinstance(callback, unneeded)]

    return Trainer(*arguments, **options)
