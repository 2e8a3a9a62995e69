"""Pretraining of the embedded foundation's autoencoder, tokenizer and denoiser on sprites rendered on the
fly."""
