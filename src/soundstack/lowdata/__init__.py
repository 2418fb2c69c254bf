"""Few clips: how systems compare by the number of clips a class that they learn from (paper section 5)."""
