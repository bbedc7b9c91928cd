"""The Kubernetes REST API: one ASGI callable over HTTP/1.1, and what only HTTP knows: media types, Table, discovery."""
