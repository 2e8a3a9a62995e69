"""What a foundation model is (one module per family), the adapter bank, the adapter file, one denoising step of a batch."""
