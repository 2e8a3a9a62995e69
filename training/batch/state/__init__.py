"""Where every concept of a batch stands, in the storage: records, leases, checkpoints."""
