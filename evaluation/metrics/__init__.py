"""The metrics, one module an idea."""
