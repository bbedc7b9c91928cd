"""Measurements: one script a question, each beside its peer where there is one."""
