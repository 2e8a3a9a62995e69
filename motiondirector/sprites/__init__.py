"""The rendered world: clips drawn, a real clip's way traced, the foundation trained."""
