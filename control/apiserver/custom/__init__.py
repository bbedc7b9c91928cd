"""Custom resources in the API server: which definitions are served, and what happens to them in the background."""
