"""Judges motions: trains or loads contenders and compares them by prompts and metrics; runs the paper's sets."""
