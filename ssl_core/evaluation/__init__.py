"""What frozen features are worth: scores of one encoder.

``protocol`` is the entry: features and labels in, scores and the choices behind them out. It calls

1. ``knn``: exact nearest neighbors; one search gives all k and temperatures.
2. ``probe``: a linear classifier, solved as a convex problem for all strengths at once. ``discriminant`` takes its place where
   classes are many.
3. ``scores``: the one list of scores, each with its heading, its direction and what computes it; ``intervals`` around them.

Every choice is made on held-out training labels; the test split is read once. ``tasks/evaluate`` calls this package; whatever
shows numbers reads ``scores.SCORES``.
"""
