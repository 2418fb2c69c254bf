"""Scores, their spread and their pictures: pure functions; neither mlflow nor torch is imported here."""
