"""A lane of the service, as a process: `python -m motiondirector.service.lane --registry URI`.

It trains what the service's ingresses enter into their batch, several concepts in one forward, until it is told to stop.
It then checkpoints and gives back what it holds. Its state is in the registry's storage, so a killed lane costs the steps
since the last checkpoints.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading

NICE = 10  # a lane on the machine of the engines yields to them
WAIT_S = 1.0


def main() -> None:
    """Follow the batch until SIGTERM, SIGINT, or the end of standard input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registry", required=True, help="folder or s3:// URI")
    parser.add_argument("--foundation", default=None, help="model folder or hub id; absent: the embedded one")
    parser.add_argument("--device", default=None)
    parser.add_argument("--pack", type=int, default=None, help="concepts in one forward")
    parser.add_argument("--tied", action="store_true", help="end when standard input does")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    os.nice(NICE)
    follow(given.registry, given.foundation, given.device, given.pack, tied=given.tied)


def follow(
    registry: str, foundation: str | None, device: str | None, pack: int | None, *, tied: bool = False
) -> None:
    """Run a lane of the service in this process, until it is stopped."""
    from infra.registry import open_registry
    from models.foundations.shared.fingerprint import fingerprint_folder
    from models.locating import locate
    from motiondirector.service.trainer import batch_of
    from training.batch.run import follow_batch

    opened = open_registry(registry)
    batch = batch_of(opened, fingerprint_folder(locate(foundation)))
    over = threading.Event()

    def wait_for_parent() -> None:
        os.read(sys.stdin.fileno(), 1)
        over.set()

    if tied:
        threading.Thread(target=wait_for_parent, daemon=True).start()
    follow_batch(batch, opened, pack=pack, device=device, over=over, private=True)


if __name__ == "__main__":
    main()
