"""Versioned keys and values as plain data: no clock, socket or event loop."""
