"""API Priority and Fairness: which request is served now, which waits, which is told to come back later.

What belongs to one level of priority shares that level's seats; within a level flows take turns. ``fairness`` and
``levels`` decide and know no clock, ``gate`` is where requests come in, ``keeper`` follows what configures it.
"""
