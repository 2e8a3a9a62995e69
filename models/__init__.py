"""Foundation models (one module per family), the adapter bank, the adapter file and batched denoising."""
