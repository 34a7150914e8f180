"""Numbers in sentences."""


def counted(number: int, one: str, more: str) -> str:
    """``1 image lies`` or ``2,000 images lie``."""
    return f"{number:,} {one if number == 1 else more}"
