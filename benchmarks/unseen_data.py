"""The chain on data that no default was tuned on: grey glyphs of 16x16, with the settings as they are.

Run `python -m benchmarks.unseen_data` in a checkout. It draws every character of the fonts that matplotlib
brings, writes them to data/glyphs.npz (more than 10,000 images), runs the chain on them in a variant
(`fewstep run --set prepare.source=glyphs.npz`), and prints for each student its distance over the converged
teacher's and whether its training had to go back.
"""

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


def main() -> None:
    """Make the data, run the chain, print the students."""
    images = glyphs()
    FILE.parent.mkdir(exist_ok=True)
    np.savez(FILE, x=images)
    print(f"{FILE}: {len(images)} images of {SIDE}x{SIDE}")
    print_students(run_chain({"prepare.source": FILE.name}))


if __name__ == "__main__":
    main()
