"""What both stages agree on: images, edits, negative sets, weights, errors."""
