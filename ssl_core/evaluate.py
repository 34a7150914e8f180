"""How good is an encoder? The evaluation protocol, from frozen features and labels to numbers with intervals."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluateConfig:
    """The evaluation protocol."""

    knn_k: tuple[int, ...]
    """Candidate numbers of neighbors; a k above the number of training images is clamped to it."""
    knn_temperature: tuple[float, ...]
    """Candidate temperatures of the neighbors' weights exp(similarity / temperature)."""
    linear_lambdas: int
    """How many regularization strengths the linear probe tries."""
    linear_lambda_range: tuple[float, float]
    """Smallest and largest of them; they are spaced evenly in the logarithm."""
    layers: int
    """Candidate layers: the last this many blocks of the encoder."""
    label_fractions: tuple[float, ...]
    """Shares of the training labels the few-label probes see."""
    label_seeds: int
    """Random class-balanced choices of those labels; mean and spread are over them."""
    bootstrap: int
    """Resamples of the test images behind each interval."""
    batch_size: int
    """Images per forward pass when features are extracted; changes speed, not results."""
    finetune_epochs: int
    """Epochs of fine-tuning encoder and linear head on the training labels; 0 = none."""
