"""Video files: reads them as a player shows them, and writes them."""
