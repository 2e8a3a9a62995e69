"""Lanes on a Ray cluster: how many, where, and who keeps them."""
