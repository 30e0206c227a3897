"""The view for people: a mirror of a study's records in MLflow, which can be lost and rebuilt at any time.

payload.py and parents.py say what is written, as plain values; mirror.py finds out what is missing; mlflow.py writes it
and is the only module that imports MLflow; background.py does so beside a running study; server.py shows it.
"""

from kdbench.track.background import BackgroundMirror
from kdbench.track.mirror import Mirror, SyncReport
from kdbench.track.mlflow import available

__all__ = ["BackgroundMirror", "Mirror", "SyncReport", "available"]
