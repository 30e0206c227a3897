"""kdbench: compare ways of making models small, fairly, fast, and with numbers that hold."""

__version__ = "0.1.0"
