"""The replicated state machine: apply(command) → result."""
