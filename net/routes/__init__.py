"""Routes to the pods of the other nodes."""
