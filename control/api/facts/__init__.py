"""Facts about the Kubernetes 1.36 API: generated tables (*.json) and hand-written ones (*.py); no logic."""
