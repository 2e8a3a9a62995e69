"""What is measured of each use of a motion, for benchmarks/uses.py."""
