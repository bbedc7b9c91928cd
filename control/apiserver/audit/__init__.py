"""Audit: who asked for what and what came of it, as a policy wishes it, in Kubernetes' own format.

``policy`` says how much of which request is told, ``record`` is one request's event in the making, ``auditor`` makes
records and gives their events on, ``buffer``, ``log`` and ``webhook`` are where events go.
"""
