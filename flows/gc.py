"""Garbage: lists what nothing uses any more, and removes it after a yes."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fewstep.errors import UserError
from flows.garbage import collect


def freed(paths: Iterable[Path]) -> int:
    """Return the bytes on disk that removing `paths` gives back; a file with a link elsewhere gives none."""
    files = [
        file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()
    ]
    stats = [file.lstat() for file in files]
    seen = Counter((stat.st_dev, stat.st_ino) for stat in stats)
    sizes = {(stat.st_dev, stat.st_ino): (stat.st_nlink, stat.st_size) for stat in stats}
    return sum(size for inode, (links, size) in sizes.items() if seen[inode] == links)


def readable(count: float) -> str:
    """Write a number of bytes as people do."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def main() -> None:
    """List the garbage; remove it after a yes, or at once with --yes."""
    parser = argparse.ArgumentParser(prog="make gc", description=__doc__)
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    agreed = parser.parse_args().yes
    kinds = [pile for pile in collect(Path.cwd()) if pile.items]
    for pile in kinds:
        print(f"\n{pile.title}\n  ({pile.cost})")
        for item, paths in pile.items.items():
            print(f"  {item}" + (f", {readable(freed(paths))}" if paths else ""))
    if not kinds:
        print("Nothing to remove.")
        return
    everything = [path for pile in kinds for paths in pile.items.values() for path in paths]
    print(f"\nRemoving it all frees {readable(freed(everything))}; a file linked elsewhere frees nothing.")
    if agreed or input("Remove? [y/N] ").strip().lower() in ("y", "yes"):
        for pile in kinds:
            pile.remove()
        print("Removed.")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
    except EOFError:
        sys.exit("\nNothing removed: nobody there to say yes; `python -m flows.gc --yes` does not ask.")
