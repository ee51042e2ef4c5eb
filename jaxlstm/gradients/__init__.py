"""Gradients as an instrument."""
