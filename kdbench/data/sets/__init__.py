"""One registered data set a file; each is found by being here."""
