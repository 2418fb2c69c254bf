"""The systems of the paper, each from a corpus to an evaluated recogniser; nothing here talks to MLflow."""
