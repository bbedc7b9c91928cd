"""The Kubernetes REST API: one ASGI callable on uvicorn, and what only HTTP knows: media types, Table, discovery."""
