"""Steelyard: open-weight models on your own GPU against closed models behind an API."""

__version__ = "0.1.0"
