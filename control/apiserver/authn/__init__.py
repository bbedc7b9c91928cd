"""Authentication: who asks.

Each module knows one kind of credential and is pure but for the lookups handed to it; `chain` asks them in
upstream's order. What somebody may do stands in `authz`, not here.
"""
