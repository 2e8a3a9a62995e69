"""Tiny random checkpoints of the real classes, in diffusers' format, for tests without downloads.

They have every component of their pipelines (tokenizer, text encoder, VAE, denoiser, scheduler). A seed fixes
their random weights. All code paths of a real model run in milliseconds. Importing this package registers the recipes.
"""

from models.tiny import cogvideox as cogvideox
from models.tiny import hunyuan as hunyuan
from models.tiny import kandinsky as kandinsky
from models.tiny import ltx as ltx
from models.tiny import mochi as mochi
from models.tiny import unets as unets
from models.tiny import wan as wan
from models.tiny.recipes import RECIPES as RECIPES
from models.tiny.recipes import tiny_checkpoint as tiny_checkpoint
