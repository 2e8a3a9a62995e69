"""Training of adapters from reference clips: the losses, the step, the run on Ray Train and DeepSpeed."""
