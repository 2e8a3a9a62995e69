"""Progress, metrics and TensorBoard of a training."""
