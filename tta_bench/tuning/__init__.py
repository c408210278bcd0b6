"""Tuning: which values of a method's parameters are best on documents that are not reported."""
