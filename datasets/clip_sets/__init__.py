"""Clip sets in Parquet: writes, reads and corrects them, and caches the latents of their clips."""
