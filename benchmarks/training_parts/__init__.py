"""The sides that `benchmarks/training.py` compares, and the measurements of its parts."""
