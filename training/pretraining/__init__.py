"""How the embedded foundation was made: its autoencoder, its tokenizer, its denoiser, on sprites rendered on the fly."""
