"""Training on one worker. Imports with torch, numpy and PyYAML alone."""
