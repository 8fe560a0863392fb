"""Lists of words, written as text."""


def words(text: str) -> tuple[str, ...]:
    """What stands between the blanks of `text`."""
    return tuple(text.split())


def lines(text: str) -> tuple[str, ...]:
    """The lines of `text` that are not empty, without the blanks around them."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())
