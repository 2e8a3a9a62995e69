"""What devices were measured to do: seconds and memory of a training step."""
