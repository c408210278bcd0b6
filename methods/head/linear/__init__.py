"""Memories that are one matrix a head, and linear in what they are given."""
