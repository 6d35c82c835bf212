"""A small client of a node's HTTP interface, and the wallet that keeps a signer from equivocating."""

from supervm.client.http import ClientError, NodeClient, NodeUnreachable, Refusal, RequestRefused
from supervm.client.wallet import Equivocation, Wallet, WalletError

__all__ = [
    "ClientError",
    "Equivocation",
    "NodeClient",
    "NodeUnreachable",
    "Refusal",
    "RequestRefused",
    "Wallet",
    "WalletError",
]
