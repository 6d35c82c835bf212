"""Tools for whoever writes components: a context to open one alone, and a conformance suite a role."""

from supervm.testing.context import component_context

__all__ = ["component_context"]
