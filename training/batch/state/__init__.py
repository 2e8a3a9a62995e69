"""The state of a batch in the storage: records, leases, checkpoints."""
