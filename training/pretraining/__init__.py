"""Pretraining of the embedded foundation (autoencoder, tokenizer, denoiser) on rendered sprites."""
