"""Search and placement: what to try next, where it runs, and which configurations are retrained."""
