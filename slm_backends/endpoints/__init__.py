"""Backends that speak to a server, and the scripted one that needs none."""
