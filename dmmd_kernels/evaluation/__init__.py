"""How good samples are: the judge, its extractors, comparisons, ablations, figures."""
