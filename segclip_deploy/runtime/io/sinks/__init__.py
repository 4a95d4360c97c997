"""Sinks of results: folders, lines, videos."""
