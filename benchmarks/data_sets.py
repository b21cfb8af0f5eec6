"""The chain on other data with the settings as they are, from data to report.

Run `python -m benchmarks.data_sets [NAME [SEED ...]]` in a checkout. NAME is a source that comes along
(`digits`, `patches`), a file under data/, or `glyphs` (the default), a set that no setting was tuned on:
every character of the fonts that matplotlib brings, grey and 16x16, which is drawn first and written to
data/glyphs.npz (more than 10,000 images). For each seed (0) the chain runs in a variant
(`fewstep run --set prepare.source=NAME --set seed=SEED`), and for each student you see its distance over the
converged teacher's and whether its training had to go back.
"""

import sys
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from benchmarks._students import print_students, run_chain

SIDE, SIZE = 16, 12
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif")
FILE = Path("data/glyphs.npz")


def glyphs() -> np.ndarray:
    """Return all characters that are neither blank nor doubled, uint8 (n, 16, 16), white on black."""
    drawn: dict[bytes, np.ndarray] = {}
    for name in FONTS:
        path = str(Path(get_data_path(), "fonts/ttf", f"{name}.ttf"))
        font = ImageFont.truetype(path, SIZE, layout_engine=ImageFont.Layout.BASIC)
        for code in sorted(TTFont(path).getBestCmap()):
            image = Image.new("L", (SIDE, SIDE))
            ImageDraw.Draw(image).text((SIDE / 2, SIDE / 2), chr(code), fill=255, font=font, anchor="mm")
            pixels = np.asarray(image)
            if pixels.max() > 127:
                drawn.setdefault(pixels.tobytes(), pixels)
    return np.stack(list(drawn.values()))


def main(name: str, seeds: list[int]) -> None:
    """Make the data if need be, run the chain with each seed, print the students."""
    if name == "glyphs":
        images = glyphs()
        FILE.parent.mkdir(exist_ok=True)
        np.savez(FILE, x=images)
        print(f"{FILE}: {len(images)} images of {SIDE}x{SIDE}")
        name = FILE.name
    for seed in seeds:
        artifacts = run_chain({"prepare.source": name, "seed": seed})
        print(f"{name}, seed {seed}:")
        print_students(artifacts)


if __name__ == "__main__":
    asked = sys.argv[1:] or ["glyphs"]
    main(asked[0], [int(seed) for seed in asked[1:]] or [0])
