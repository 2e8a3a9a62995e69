"""Batch training of many concepts: the manifest, the plan, the state in the storage, the lanes that train."""
