"""One method a file; each is found by being here."""
