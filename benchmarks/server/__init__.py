"""Servers under load: see __main__."""
