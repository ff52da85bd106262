"""Measurements on demand; nothing here runs by itself."""
