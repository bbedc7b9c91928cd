"""Consensus: PySyncObj behind our own log, transport and covers.

``driver.RaftConsensus`` is what the store uses (``contract.Consensus``); ``replica.Replica`` is one member without a
world; ``consensus`` is the only door to PySyncObj; ``members`` makes identities.
"""
