"""Stage two: training, features, memory bank, scores, metrics and reports."""
