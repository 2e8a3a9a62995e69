"""What `ingest`, `train`, `generate` and `serve` do, as functions. Batches, evaluations, studies and sprites have rooms of their own."""
