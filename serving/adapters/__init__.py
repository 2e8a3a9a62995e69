"""An adapter's way from the registry to a slot: local disk, host memory, slots."""
