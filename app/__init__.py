"""The HTTP door: turns requests into store and search calls, and errors into problems. Never imports torch."""
