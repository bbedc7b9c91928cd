"""The versioned key space: pure values and functions, no clock, no socket, no event loop."""
