"""The Kubernetes API over the store: authentication, authorization, admission, registry, watch cache.

``request`` holds the words that all modules share and the seams where security plugs in; ``etcd`` is the one door to
the store; ``cache`` is what reads are served from; ``registry`` is what writes walk through; ``rest`` and ``grpc``
are two front doors over the same handlers.
"""
