"""Measures of samples and of flows, one idea a file; `protocol` says how they become a report's numbers.

Distances between sets of samples are taken between features of a small classifier trained by the
pipeline itself (`features`), so that they need no download. They are called fd_clf and kid_clf, and
never FID or KID: those names belong to Inception features.
"""
