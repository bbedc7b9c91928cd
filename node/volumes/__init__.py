"""Volumes: one module a kind, each making a folder of the node ready and, where its source changes, fresh."""
