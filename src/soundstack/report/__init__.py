"""The report: tracked runs in the form of the paper's tables, beside the paper's figures (paper section 4)."""
