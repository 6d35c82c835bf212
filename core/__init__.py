"""SuperVM: a plugin-composed blockchain node that fits any machine."""

__version__ = "0.1.0"
