"""One module per command (or group of commands). Heavy imports happen inside the functions, so `--help` is quick."""
