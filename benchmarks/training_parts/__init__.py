"""What `benchmarks/training.py` compares, and how each part of it measures."""
