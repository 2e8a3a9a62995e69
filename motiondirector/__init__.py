"""The front door: the command line. Parses, prints and calls the rooms below; no algorithm lives here."""

__version__ = "0.1.0"
