"""The state machine's state as chunks of bytes, and back."""
