"""One conformance suite a role: subclass it, name your component, and every promise is tested."""
