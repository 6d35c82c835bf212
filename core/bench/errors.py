"""What a benchmark can be asked and can't do."""


class CantMeasure(Exception):
    """Sizes, or an engine, that this machine or this workload doesn't have. The message says the mend."""
