"""The study file: its typed schema, how it is read and checked, and what it plans. No torch."""
