"""LoRA slots behind the layers of a model, and which of them each sample of a batch uses."""
