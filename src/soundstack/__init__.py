"""Soundstack: audio recognition by CRNNs, DEEP SPECTRUM and stacked linear SVMs (Amiriparian et al. 2020)."""

__version__ = "0.1.0"
