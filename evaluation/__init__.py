"""Measures the quality of learned motions: metrics, trackers and benchmark tables."""
