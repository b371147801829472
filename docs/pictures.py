"""Make a picture of README and docs from a finished run: `python docs/pictures.py digits|generated|detection RUN`.

RUN is the folder of a run of `experiment=digits`, after `lab explain run=RUN`; of `generate_digits`; or of
`detect_digits`.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from lab import runs
from lab.features.boxes import draw_boxes
from lab.figures.page import BLUE, ORANGE, axes_of_curves, save

PICTURES = Path(__file__).with_name("pictures")
COLORS = 192  # of a picture's palette


def curves(folder: Path) -> Image.Image:
    """The accuracy in training and validation, epoch by epoch, from the run's `metrics.csv`."""
    figure, axis = axes_of_curves("accuracy")
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name, color in (("train/acc", ORANGE), ("val/acc", BLUE)):
        points = [(int(row["epoch"]) + 1, float(row[name])) for row in rows if row[name]]
        axis.plot(*zip(*points, strict=True), color=color, label=name)
    axis.legend(loc="lower right")
    path = PICTURES / "curves.tmp.png"
    save(figure, path)
    try:
        return Image.open(path).convert("RGB")
    finally:
        path.unlink()


def scaled(picture: Image.Image, height: int) -> Image.Image:
    return picture.resize((round(picture.width * height / picture.height), height), Image.Resampling.LANCZOS)


def side_by_side(pictures: Sequence[Image.Image], height: int) -> Image.Image:
    """Pictures in one row of the same height."""
    parts = [scaled(picture, height) for picture in pictures]
    row = Image.new("RGB", (sum(part.width for part in parts), height), "white")
    left = 0
    for part in parts:
        row.paste(part, (left, 0))
        left += part.width
    return row


def stacked(rows: Sequence[Image.Image]) -> Image.Image:
    """Rows below each other, scaled to the width of the first."""
    width = rows[0].width
    parts = [row.resize((width, round(row.height * width / row.width)), Image.Resampling.LANCZOS) for row in rows]
    page = Image.new("RGB", (width, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height
    return page


def keep(picture: Image.Image, name: str, colors: int = COLORS) -> None:
    """Write a picture with a small palette: a third of the bytes."""
    path = PICTURES / name
    picture.quantize(colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


def top(picture: Image.Image, share: float) -> Image.Image:
    return picture.crop((0, 0, picture.width, round(picture.height * share)))


@torch.no_grad()
def detections(folder: Path) -> Image.Image:
    """Four test scenes: the true boxes above, the boxes that the net finds below."""
    _, data, task = runs.load(folder, test_split=True)
    batch = data.splits["test"].__getitems__(range(4))
    found = task.predict_step(data.on_after_batch_transfer(batch), 0)
    true = {
        "found_boxes": batch["boxes"],
        "found_label": batch["box_label"],
        "score": (batch["box_label"] >= 0).float(),
    }
    rows = []
    for each in (true, found):
        arrays = {name: values.numpy() for name, values in each.items()}
        pictures = []
        for i, (image, original) in enumerate(zip(batch["image"].numpy(), batch["original"].numpy(), strict=True)):
            kept = (arrays["found_label"][i] >= 0) & (arrays["score"][i] >= task.threshold)
            boxes, kind, score = (arrays[name][i][kept] for name in ("found_boxes", "found_label", "score"))
            texts = [f"{k} {s:.2f}" if each is found else str(k) for k, s in zip(kind, score, strict=True)]
            pictures.append(draw_boxes(image, original, boxes, kind, texts))
        rows.append(side_by_side(pictures, 240))
    return stacked(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", choices=("digits", "generated", "detection"))
    parser.add_argument("run", type=Path)
    given = parser.parse_args()
    PICTURES.mkdir(exist_ok=True)
    if given.picture == "detection":
        return detections(given.run).save(PICTURES / "detection.jpg", quality=85)  # noise is smaller as JPEG

    def figure(name: str) -> Image.Image:
        return Image.open(given.run / name).convert("RGB")

    if given.picture == "generated":
        keep(scaled(figure("figures/test_samples.png"), 300), "generated.png", colors=32)
        return
    scores = side_by_side([curves(given.run), figure("figures/test_confusion.png")], 420)
    samples = [top(figure(f"figures/{name}.png"), 0.54) for name in ("train_samples", "test_least_sure")]
    keep(stacked([scores, side_by_side(samples, 320)]), "run.png")
    keep(figure("explain/mistakes.png"), "explain.png")


if __name__ == "__main__":
    main()
