"""Consensus: PySyncObj behind our own log, transport and covers."""
