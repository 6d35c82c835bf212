"""A plugin whose module can't be imported."""

raise RuntimeError("no luck at import")
