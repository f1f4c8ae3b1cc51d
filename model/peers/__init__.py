"""Heads of other papers on the same encoder, with ESDA's interface, one a file (docs/peers.md)."""
