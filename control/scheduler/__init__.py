"""Chooses a node for each pod."""
