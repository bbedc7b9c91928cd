"""KMS v2: what API servers ask of key management plugins, and what they store."""
