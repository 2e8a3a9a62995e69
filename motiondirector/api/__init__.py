"""`ingest`, `train`, `generate` and `serve` as functions. Batches, evaluations, studies and sprites have separate packages."""
