"""Regions: the part of the frame in which an adapter acts. `region.py` describes one, without torch."""
