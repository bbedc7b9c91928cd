"""The only door to PySyncObj."""
