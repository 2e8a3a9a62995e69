"""How much memory a model needs, computed from its configuration alone: no weights are read, and no values exist."""
