"""The model families. Importing this package registers them."""

from models.families import animatediff as animatediff
from models.families import cogvideox as cogvideox
from models.families import hunyuan as hunyuan
from models.families import hunyuan15 as hunyuan15
from models.families import kandinsky as kandinsky
from models.families import ltx as ltx
from models.families import mochi as mochi
from models.families import skyreels as skyreels
from models.families import unet3d as unet3d
from models.families import wan as wan
from models.families import wan_image as wan_image
