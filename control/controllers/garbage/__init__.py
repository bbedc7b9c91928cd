"""The garbage collector: a pure graph of owners and dependents, and the shell that follows it."""
