"""Videos become a clip set, in this process or on a Ray cluster."""
