"""Node networking: pod wiring, routes between nodes and service rules."""
