"""Pod addresses of one node: a pure allocator and the file that remembers it."""
