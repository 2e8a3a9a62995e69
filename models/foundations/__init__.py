"""Foundation models: the interface (base.py), and one module or folder for each family of diffusers pipelines."""
