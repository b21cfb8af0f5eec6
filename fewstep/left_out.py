"""Messages that count what was found but not used."""

from collections import Counter

MOST = 8


def counted(endings: Counter[str]) -> str:
    """Return how often each ending comes, the most frequent first: "12 .txt, 1 .csv"."""
    ordered = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(
        [f"{count} {ending}" for ending, count in ordered[:MOST]] + ["..."] * (len(ordered) > MOST)
    )
