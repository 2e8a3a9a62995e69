"""What the modules of all families are made of: noise, layouts of tokens, names of target layers, pixels, fingerprints."""
