"""Many concepts as one piece of work: the manifest, the plan, the state in the storage, the lane that trains."""
