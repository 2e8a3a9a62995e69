"""The training loop: draws, losses, one step, packs of concepts, and the engines that update them."""
