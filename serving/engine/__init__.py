"""The denoising engine: many requests, any mix of adapters, one batch a step. No Ray in it."""
