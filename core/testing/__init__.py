"""Tools for whoever writes components: a context to open one alone, and a conformance suite a role.

The suites are `supervm.testing.conformance.ROLE`; they need pytest, pytest-trio and hypothesis, which the
extra `supervm[testing]` brings. Nothing else here needs more than the node does.
"""

from supervm.testing.context import RecordedMetrics, component_context, opened

__all__ = ["RecordedMetrics", "component_context", "opened"]
