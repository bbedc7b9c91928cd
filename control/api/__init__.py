"""Kubernetes objects as facts and pure functions: no client, no clock, no event loop."""
