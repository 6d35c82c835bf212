"""Signatures and key files. Each suite stands behind one interface: `supervm.crypto.suites`."""
