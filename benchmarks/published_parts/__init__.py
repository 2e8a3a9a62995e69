"""The parts of benchmarks/published_code.py."""
