"""The wire: protocol definitions and their generated stubs; no logic lives here."""
