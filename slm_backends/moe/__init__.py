"""Mixtures of experts: what the experts that worked on a text tell, and what a mixture costs.

Knows what routing.Routed brings and what the catalog says. Knows no runtime and no page.
"""
