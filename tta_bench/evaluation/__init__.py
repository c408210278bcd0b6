"""Evaluation: a suite becomes a plan of jobs, an executor does them, and each job is a run."""
