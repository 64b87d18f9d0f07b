"""Stage one: saliency, clusters, anchors and edits, written to negative sets."""
