"""Loops that keep the cluster and its infrastructure provider in step."""
