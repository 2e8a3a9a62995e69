"""References become adapters: the losses, the step, the run on Ray Train and DeepSpeed."""
