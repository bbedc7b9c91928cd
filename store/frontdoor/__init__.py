"""Servers that carry the one service table of the store to clients."""
