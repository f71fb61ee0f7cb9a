"""Plots of reports as SVG."""
