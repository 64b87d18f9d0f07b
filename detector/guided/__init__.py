"""Guided segmentation: a network that marks what differs from a normal image shown beside it."""
