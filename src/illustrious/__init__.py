"""Illustrious AI Studio: draws, chats and looks at pictures on your own machine."""

__version__ = "0.1.0"
