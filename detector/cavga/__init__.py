"""CAVGA's parts: an adversarial variational autoencoder that attends to what is normal."""
