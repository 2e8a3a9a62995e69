"""The model families: importing this package registers each of them."""

from models.families import unet3d as unet3d
from models.families import wan as wan
