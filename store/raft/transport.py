"""Frames between members."""
