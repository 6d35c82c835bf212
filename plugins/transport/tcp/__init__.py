"""The transport `tcp`: TLS 1.3 between node identities, three connections a peer, one for each priority."""
