"""Own boxes: four formats, and one line for each fault."""

import json
from pathlib import Path

import box_data
import pytest
import torch
from PIL import Image

from lab.data.box_files import BoxFiles, chosen_size
from lab.engine.errors import UserError


def read(root: Path, **more) -> BoxFiles:
    data = BoxFiles(str(root), None, 3, 0.2, 0.2, batch_size=4, **more)
    data.setup("fit")
    return data


def test_the_batches_of_all_formats_are_bitwise_equal(tmp_path):
    one, *others = (read(box_data.write(tmp_path / each, each)) for each in ("coco", "voc", "yolo", "csv"))
    assert one.facts.features["objects"].class_names == ["ant", "bird", "cat"]
    for other in others:
        assert one.facts.features == other.facts.features
        for name, split in one.splits.items():
            first, second = (each.__getitems__(range(len(split))) for each in (split, other.splits[name]))
            assert all(values.equal(second[entry]) for entry, values in first.items())


FEW = [(f"{i}.png", (32, 32), [("cat" if i % 2 else "ant", (2, 3, 20, 24))]) for i in range(10)]


def change(key, index, **values):
    def edit(folder):
        path = folder / "boxes.json"
        content = json.loads(path.read_text())
        content[key][index] |= values
        path.write_text(json.dumps(content))

    return edit


def replace(name, old, new, num=1):
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new, num))


def append(name, text):
    return lambda folder: (folder / name).write_text((folder / name).read_text() + text)


FAULTS = {  # format, the fault, and a part of the line that names it
    "coco box of no area": ("coco", change("annotations", 1, bbox=[4, 4, 0, 9]), r"annotations\[1\].* has no area"),
    "coco box outside": ("coco", change("annotations", 2, bbox=[40, 4, 9, 9]), r"annotations\[2\].* is outside of the"),
    "coco box of NaN": ("coco", change("annotations", 0, bbox=[float("nan"), 4, 9, 9]), r"\[0\].* is not finite"),
    "coco box of text": ("coco", change("annotations", 0, bbox=["a", 4, 9, 9]), r"annotations\[0\]: bbox is a, not a"),
    "coco box of three": ("coco", change("annotations", 0, bbox=[4, 9, 9]), r"\[0\]: bbox is .* expected x, y, width"),
    "coco unknown category": ("coco", change("annotations", 3, category_id=5), r"\[3\]: category_id is 5, but no"),
    "coco unknown image": ("coco", change("annotations", 3, image_id=5), r"\[3\]: image_id is 5, but no picture"),
    "coco missing picture": ("coco", lambda f: (f / "3.png").unlink(), r"images\[3\]: the picture 3.png is missing"),
    "coco swapped size": ("coco", change("images", 2, width=64), r"images\[2\]: it says that .*2.png has 64 × 32"),
    "coco picture twice": ("coco", change("images", 2, file_name="1.png"), r"images\[2\].*1.png is described twice"),
    "coco without a list": ("coco", replace("boxes.json", '"annotations"', '"rows"'), "it has no 'annotations'"),
    "coco no JSON": ("coco", append("boxes.json", "]"), "boxes.json: expected COCO JSON"),
    "broken picture": ("coco", lambda f: (f / "3.png").write_bytes(b"no"), "3.png is not a readable image"),
    "voc no XML": ("voc", append("1.xml", "<"), "1.xml is not XML"),
    "voc inverted": ("voc", replace("1.xml", "<xmin>3", "<xmin>30"), "1.xml, object 1: the box .* has no area"),
    "voc without a corner": ("voc", replace("1.xml", "<xmin>3</xmin>", ""), "object 1: a corner of bndbox is empty"),
    "voc without a class": ("voc", replace("1.xml", "<name>cat</name>", ""), "object 1: the box has no class"),
    "voc without a picture": ("voc", lambda f: (f / "1.png").unlink(), "1.xml: the picture 1 is missing"),
    "yolo unknown class": ("yolo", append("labels/1.txt", "7 .5 .5 .1 .1\n"), "1.txt, line 2: the class is 7; the"),
    "yolo pixels": ("yolo", append("labels/1.txt", "0 20 20 9 9\n"), "1.txt, line 2: 20 is no share"),
    "yolo too few": ("yolo", append("labels/1.txt", "0 .5 .5 .1 .1 .3\n"), "1.txt, line 2: there are 6 columns"),
    "yolo without names": ("yolo", lambda f: (f / "data.yaml").unlink(), "no names of classes; add data.yaml"),
    "yolo without a picture": (
        "yolo",
        lambda f: (f / "labels/zz.txt").write_text("0 .5 .5 .1 .1"),
        "the picture zz is missing",
    ),
    "csv no number": ("csv", append("boxes.csv", "1.png,cat,a,2,3,4\n"), "boxes.csv, line 12: x1 is a, not a number"),
    "csv missing picture": ("csv", append("boxes.csv", "z.png,cat,1,2,3,4\n"), "line 12: the picture z.png is missing"),
    "csv half a box": ("csv", append("boxes.csv", "1.png,cat,1,2,,\n"), "line 12: x2 is empty, not a number"),
    "csv one class without a name": ("csv", append("boxes.csv", "1.png,,1,2,3,4\n"), "line 12: the box has no class"),
    "two formats": ("csv", lambda f: box_data.WRITERS["voc"](f, FEW), "boxes in several formats: Pascal VOC"),
    "no boxes": ("csv", lambda f: (f / "boxes.csv").unlink(), "has no boxes; expected COCO JSON"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line(fault, tmp_path):
    kind, edit, message = FAULTS[fault]
    box_data.write(tmp_path, kind, FEW)
    edit(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_faults_can_be_left_out_and_are_counted(tmp_path):
    box_data.write(tmp_path, "coco", FEW)
    change("annotations", 1, bbox=[4, 4, 0, 9])(tmp_path)
    data = read(tmp_path, skip_unreadable=True)
    assert data.facts.num_samples == {"train": 6, "val": 2, "test": 2}
    assert "1 pictures and boxes that can't be read" in data.report.full()


def test_the_report_names_what_people_should_know(tmp_path):
    pictures = [*FEW, ("n.png", (32, 32), [])]
    box_data.write(tmp_path, "coco", pictures)
    change("annotations", 1, bbox=[-5, 4, 20, 9])(tmp_path)
    change("annotations", 2, iscrowd=1)(tmp_path)
    path = tmp_path / "boxes.json"
    content = json.loads(path.read_text())
    content["annotations"].append(content["annotations"][4])
    path.write_text(json.dumps(content))
    data = read(tmp_path)
    report = data.report.full()
    for part in ("9 boxes in 11 pictures (COCO)", "1 pictures without boxes", "1 boxes of crowds or difficult objects"):
        assert part in report
    assert "1 boxes are cut at the edge of the picture, such as" in report
    assert "1 boxes are there twice, such as" in report
    every = [split.__getitems__(range(len(split))) for split in data.splits.values()]
    assert torch.cat([batch["boxes"] for batch in every]).min() == 0
    assert torch.cat([batch["box_crowd"] for batch in every]).sum() == 1


def test_folders_and_lists_are_splits(tmp_path):
    for split, part in (("train", FEW[:6]), ("valid", FEW[6:8]), ("test", FEW[8:])):
        box_data.write(tmp_path / "folders" / split, "coco", part)
    data = read(tmp_path / "folders")
    assert data.facts.num_samples == {"train": 6, "val": 2, "test": 2}
    box_data.write(tmp_path / "lists", "voc", FEW)
    lists = tmp_path / "lists/ImageSets/Main"
    lists.mkdir(parents=True)
    for name, numbers in (("train", range(7)), ("val", (7,)), ("test", (8, 9))):
        (lists / f"{name}.txt").write_text("".join(f"{i}\n" for i in numbers))
    assert read(tmp_path / "lists").facts.num_samples == {"train": 7, "val": 1, "test": 2}


def test_a_rotated_photograph_has_its_boxes_where_it_is_displayed(tmp_path):
    box_data.write(tmp_path, "csv", FEW)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    Image.new("RGB", (40, 20)).save(tmp_path / "1.png", exif=exif)
    data = read(tmp_path)
    sizes = torch.cat([split.__getitems__(range(len(split)))["original"] for split in data.splits.values()])
    assert [20, 40] in sizes.tolist()


def test_the_size_of_the_input_follows_the_objects(tmp_path):
    class Fake:
        def __init__(self, side, size):
            self.boxes, self.size = [(0, 0, side, side)], (size, size)

    assert chosen_size([Fake(300, 1000)] * 9) == 128  # large objects
    assert chosen_size([Fake(60, 1000)] * 9) == 256
    assert chosen_size([Fake(10, 1000)] * 9) == 320
    assert chosen_size([Fake(10, 200)] * 9) == 192
