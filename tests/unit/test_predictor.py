"""`lab predict` with inputs and outputs that no shipped task has: several, files, columns that depend on the item."""

import json
import re

import numpy as np
import PIL.Image
import pytest
from made_up_outputs import (
    IMAGE,
    MEAN,
    PICTURE,
    SHADE,
    SIZE,
    TWO,
    WORDS,
    Anything,
    Note,
    Points,
    asks,
    client,
    made,
    png,
)  # fmt: skip
from tables import read_rows

from lab.engine.config.compose import compose_config
from lab.engine.errors import RunError, UserError
from lab.features.labels import ClassLabel
from lab.features.numbers import Numbers
from lab.verbs import predictor
from lab.verbs.export import main as export
from lab.verbs.predict import main as predict
from lab.verbs.predictor import Predictor


@pytest.fixture
def predict_to(monkeypatch, tmp_path):
    """`lab predict` with a predictor, in a folder with two pictures."""
    (tmp_path / "in").mkdir()
    for name, level in (("a", 255), ("b", 51)):
        (tmp_path / f"in/{name}.png").write_bytes(png(level))
    monkeypatch.chdir(tmp_path)

    def predict_to(asked, source, output, *overrides):
        monkeypatch.setattr(predictor, "from_onnx", lambda _: asked)
        predict.main(compose_config("predict", ["model=x.onnx", f"input={source}", f"output={output}", *overrides]))

    return predict_to


@pytest.fixture
def ask(predict_to, tmp_path):
    """The same, and the rows that were written."""

    def ask(asked, source, *overrides, output="out.csv"):
        predict_to(asked, source, output, *overrides)
        if output.endswith(".csv"):
            return read_rows(tmp_path / output)
        return [json.loads(line) for line in (tmp_path / output).read_text().splitlines()] if output != "-" else None

    return ask


def test_several_inputs_are_the_columns_of_a_table(ask, tmp_path):
    (tmp_path / "in/table.csv").write_text("text,more,image\ndark,1,a.png\n<b>,2,b.png\nlight,3,none.png\nlight,4,\n")
    with pytest.raises(RunError, match="2 of 4 items could not be read"):
        ask(asks(TWO, {"shade": SHADE}), "in/table.csv")
    rows = read_rows(tmp_path / "out.csv")
    assert [*rows[0]] == ["image", "text", "shade", "probability", "shade_2", "probability_2", "error"]
    assert [(row["image"], row["text"], row["shade"]) for row in rows[:2]] == [
        ("in/a.png", "dark", "light"), ("in/b.png", "<b>", "dark"),
    ]  # fmt: skip
    assert rows[2]["error"].startswith("image: ")
    assert rows[3]["error"] == "it has no image"


def test_several_inputs_are_the_keys_of_json_lines(ask, tmp_path):
    lines = [
        '{"image": "a.png", "size": [3, 4.5]}',
        '{"image": "b.png", "size": "1,2"}',
        '{"image": "a.png"}',
        "{",
        "7",
    ]
    lines += [
        '{"image": "a.png", "size": ["x"]}',
        '{"image": "a.png", "size": [1]}',
        '{"image": 7, "size": [1, 2]}',
        "",
    ]
    (tmp_path / "in/table.jsonl").write_text("\n".join(lines))
    with pytest.raises(RunError, match="6 of 8 items could not be read"):
        ask(asks({"image": IMAGE, "size": SIZE}, {"shade": SHADE}), "in/table.jsonl", output="out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["shade"] for row in rows] == ["light", "dark", *[None] * 6]
    said = [
        "",
        "",
        "no size",
        "not JSON",
        "not a JSON object",
        "list of numbers",
        "expected 2",
        "image: expected the path of a file",
    ]
    assert all(text in row["error"] for text, row in zip(said, rows, strict=True)), [row["error"] for row in rows]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", "image,words\na.png,x\n", "it has no column text; expected a column for each of image, text"),
        ("t.csv", "image,text\n", "it has no rows"),
        ("t.jsonl", "", "it has no rows"),
        ("t.txt", "a.png", "the inputs image and text need a .csv or .jsonl table"),
        ("t.csv", "image,text\n".encode("utf-16"), "it is UTF-16"),
        ("none.csv", None, "there is no such file"),
    ],
)
def test_a_table_that_lacks_an_input_is_refused(name, content, said, ask, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said) as error:
        ask(asks(TWO, {"shade": SHADE}), name)
    assert len(str(error.value).splitlines()) == 1


def test_several_outputs_stand_side_by_side(ask, capsys):
    rows = ask(asks({"image": IMAGE}, {"shade": SHADE, "mean": MEAN}), "in", "top_k=1")
    assert rows[0] == {
        "path": "in/a.png", "shade": "light", "shade_probability": "1.0000", "mean_level": "1.0000", "error": "",
    }  # fmt: skip
    assert "in/b.png  shade: 0.8000  dark, mean: level 0.2" in capsys.readouterr().out
    ask(asks({"image": IMAGE}, {"shade": SHADE, "mean": MEAN}), "in", output="-")
    assert capsys.readouterr().out == "shade: light, mean: level 1.0\nshade: dark, mean: level 0.2\n"


def test_an_output_that_is_a_file_is_written_beside_the_table(ask, tmp_path, capsys):
    rows = ask(asks({"image": IMAGE}, {"picture": PICTURE}), "in")
    assert [row["picture"] for row in rows] == ["out/000001.png", "out/000002.png"]
    assert [PIL.Image.open(row["picture"]).getpixel((0, 0)) for row in rows] == [255, 51]
    assert "picture: files in out" in capsys.readouterr().out
    (tmp_path / "other").mkdir()
    several = {"picture": PICTURE, "copy": PICTURE, "shade": SHADE}
    (row, _) = ask(asks({"image": IMAGE}, several), "in", "top_k=1", output="other/out.jsonl")
    assert [*row.values()][1:4] == ["out/000001_picture.png", "out/000001_copy.png", "light"]
    with pytest.raises(UserError, match="^error: output=-: picture is a file for each item; choose output="):
        ask(asks({"image": IMAGE}, {"picture": PICTURE}), "in", output="-")


@pytest.mark.parametrize(
    ("prepare", "source", "said"),
    [
        (lambda path: path.mkdir() or (path / "000001.png").write_bytes(b"mine"), "in", "the folder out is not empty"),
        (lambda path: path.symlink_to("in"), "in", "out exists and is not a folder"),
        (lambda path: path.symlink_to("nowhere"), "in", "out exists and is not a folder"),
        (lambda path: path.write_bytes(b"mine"), "in", "out exists and is not a folder"),
        (lambda path: path.mkdir() or (path / "x.png").write_bytes(png(9)), "out", "the folder out is not empty"),
    ],
)
def test_files_of_outputs_replace_nothing(prepare, source, said, ask, tmp_path):
    prepare(tmp_path / "out")
    (tmp_path / "out.csv").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"^error: output=out.csv: {said}.*choose another name.$"):
        ask(asks({"image": IMAGE}, {"picture": PICTURE}), source)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_file_that_appears_while_answers_are_written_stays(ask, tmp_path):
    def predict(arrays):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out/000002.png").write_bytes(b"mine")
        return made({"picture": PICTURE})(arrays)

    (tmp_path / "in/table.jsonl").write_text('{"image": "a.png", "text": "dark"}\n' * 2)
    first = iter([made({"picture": PICTURE})])  # of the example
    asked = Predictor(TWO, {"picture": PICTURE}, lambda x: next(first, predict)(x))
    with pytest.raises(RunError, match=r"^error: output=out/000002.png: it could not be written: File exists"):
        ask(asked, "in/table.jsonl")
    assert (tmp_path / "out/000002.png").read_bytes() == b"mine"


def test_files_that_predict_wrote_are_read_from_its_table(ask, tmp_path):
    (tmp_path / "deep").mkdir()
    ask(asks({"image": IMAGE}, {"picture": PICTURE}), "in", output="deep/made.csv")
    inputs = {"picture": IMAGE, "path": WORDS}
    (tmp_path / "deep/made.csv").write_text((tmp_path / "deep/made.csv").read_text().replace("in/a.png", "dark"))
    with pytest.raises(RunError, match="1 of 2 items could not be read"):
        ask(asks(inputs, {"mean": MEAN}), "deep/made.csv")
    (row, _) = read_rows(tmp_path / "out.csv")
    assert (row["picture"], row["level"], row["error"]) == ("deep/made/000001.png", "1.0000", "")


@pytest.mark.parametrize("output", ["out.csv", "out.jsonl"])
def test_columns_may_depend_on_the_item(output, ask, tmp_path):
    """The width of each item scales its points, and a dark picture has two, a bright one three."""
    lines = [f'{{"image": "b.png", "size": [{10 * i}, 1]}}' for i in range(1, 70)]
    (tmp_path / "in/t.jsonl").write_text("\n".join([*lines, '{"image": "a.png", "size": [10, 1]}']))
    dark = Predictor({"image": IMAGE, "size": SIZE}, {"at": Points()}, lambda x: made({"at": Points()})(as_dark(x)))
    rows = ask(dark, "in/t.jsonl", output=output)
    assert [float(rows[i][key]) for i in (0, 1, 69) for key in ("at", "at_2")] == [2, 1, 4, 2, 10, 5]
    assert float(rows[69]["at_3"]) == 5
    assert not rows[0].get("at_3")


def as_dark(arrays):
    """The example is dark too, so that the table begins without the third point."""
    return arrays | {"image": np.where((arrays["image"] == 1).all((1, 2, 3), keepdims=True), 51, arrays["image"])}


def test_a_column_that_an_input_has_gets_another_name(ask, tmp_path):
    (tmp_path / "lines").write_text("dark\n")
    (row,) = ask(asks({"text": WORDS}, {"class": SHADE}), "lines")
    assert (row["class"], row["predicted_class"], row["class_2"]) == ("dark", "dark", "light")


@pytest.mark.parametrize("value", ['["a.png"]', '{"path": "a.png"}', "true", "1.5"])
def test_what_is_not_the_path_of_a_file_is_refused(value, ask, tmp_path):
    (tmp_path / "in/t.jsonl").write_text(f'{{"image": {value}, "text": "dark"}}')
    with pytest.raises(RunError, match="1 of 1 items could not be read"):
        ask(asks(TWO, {"shade": SHADE}), "in/t.jsonl", output="out.jsonl")
    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert row["error"] == "image: expected the path of a file"


@pytest.mark.parametrize("output", ["out.csv", "out.jsonl", "-"])
@pytest.mark.parametrize("text", [r"\ud83d", r"dark\udc80", r"\udfff\ud800"])
def test_half_a_surrogate_pair_is_written_as_an_escape(text, output, predict_to, tmp_path):
    """JSON has it, UTF-8 has not. A byte that is no UTF-8 stays that byte."""
    (tmp_path / "in/t.jsonl").write_text(f'{{"image": "a.png", "label": "{text}"}}\n')
    inputs = {"image": IMAGE, "label": Anything()}
    predict_to(asks(inputs, {"shade": SHADE}), "in/t.jsonl", output)
    if output != "-":
        written = (tmp_path / output).read_bytes()
        assert b"light" in written
        assert text[-5:].encode() in written or b"\x80" in written


@pytest.mark.parametrize(
    ("outputs", "columns"),
    [
        ({"a": Numbers(["b_c"], entry="mean"), "a_b": Numbers(["c"], entry="mean")}, ["a_b_c", "predicted_a_b_c"]),
        ({"error": Numbers(["error"], entry="mean")}, ["predicted_error"]),
        ({"m": Numbers(["path"], entry="mean"), "path": SHADE}, ["m_path", "predicted_path", "path_probability"]),
    ],
)
def test_two_columns_of_one_name_get_two(outputs, columns, ask):
    (row, _) = ask(asks({"image": IMAGE}, outputs), "in", "top_k=1")
    assert [*row] == ["path", *columns, "error"]
    assert set(row.values()) <= {"in/a.png", "1.0000", "light", ""}
    assert all(row[name] for name in columns)


def test_an_input_of_the_name_error_does_not_hide_the_errors(ask, tmp_path):
    (tmp_path / "in/t.csv").write_text("image,error\na.png,dark\nnone.png,light\n")
    with pytest.raises(RunError, match="1 of 2 items could not be read"):
        ask(asks({"image": IMAGE, "error": WORDS}, {"mean": MEAN}), "in/t.csv")
    rows = read_rows(tmp_path / "out.csv")
    assert [(row["input_error"], row["error"][:6]) for row in rows] == [("dark", ""), ("light", "image:")]


def test_a_number_of_the_name_probability_is_no_percentage(ask, capsys):
    ask(asks({"image": IMAGE}, {"price": Numbers(["probability"], entry="mean")}), "in")
    assert "in/a.png  probability 1.0\n" in capsys.readouterr().out


def test_a_linked_table_with_more_columns_stays_a_link(ask, tmp_path):
    lines = [f'{{"image": "{name}.png", "size": [10, 1]}}' for name in "ba"]
    (tmp_path / "in/t.jsonl").write_text("\n".join(lines))
    (tmp_path / "out.csv").symlink_to("in/table.csv")
    (tmp_path / "in/table.csv.whole").write_text("mine")
    inputs = {"image": IMAGE, "size": SIZE}
    rows = ask(Predictor(inputs, {"at": Points()}, lambda x: made({"at": Points()})(as_dark(x))), "in/t.jsonl")
    assert float(rows[1]["at_3"]) == 5
    assert (tmp_path / "out.csv").is_symlink()
    assert (tmp_path / "in/table.csv.whole").read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == [
        "a.png", "b.png", "t.jsonl", "table.csv", "table.csv.whole",
    ]  # fmt: skip


def test_what_is_drawn_depends_on_the_number_of_the_item(ask):
    outputs = {"mean": MEAN}
    drawn = Predictor({"image": IMAGE}, outputs, lambda x: made(outputs)({"index": x["index"]}))
    rows = ask(drawn, "in")
    assert [row["level"] for row in rows] == ["0.0000", "0.1000"]
    with client(drawn) as asked:
        assert [asked.post("/predict", files={"file": png(9)}).json()["level"] for _ in "ab"] == [0, 0]


def test_an_unconditional_generator_is_refused_in_a_sentence(ask):
    with pytest.raises(UserError, match=r"^error: model=x.onnx: it takes no inputs") as error:
        ask(asks({}, {"picture": PICTURE}), "in")
    assert len(str(error.value).splitlines()) == 1


def test_a_class_is_an_input_by_its_name(ask, tmp_path):
    (tmp_path / "lines").write_text("light\nred\n")
    with pytest.raises(RunError, match="1 of 2 items could not be read"):
        ask(asks({"label": ClassLabel(["dark", "light"])}, {"picture": PICTURE}), "lines")
    rows = read_rows(tmp_path / "out.csv")
    assert [(row["class"], row["picture"]) for row in rows] == [("light", "out/000001.png"), ("red", "")]
    assert rows[1]["error"] == "red is not a class; the classes are dark, light."


def test_only_probabilities_have_a_mean_over_mirror_images():
    for outputs in ({"picture": PICTURE}, {"shade": SHADE, "mean": MEAN}):
        with pytest.raises(UserError, match="flip: only class probabilities can be averaged, not (picture|mean)"):
            predictor.with_flip(asks({"image": IMAGE}, outputs))
    with pytest.raises(UserError, match="flip: size and text inputs cannot be mirrored"):
        predictor.with_flip(asks({"size": SIZE, "text": WORDS}, {"shade": SHADE}))


def small_onnx():
    """A model that gives its input back."""
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["batch", 1])
    end = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", 1])
    node = helper.make_node("Identity", ["numbers"], ["mean"])
    return helper.make_model(
        helper.make_graph([node], "g", [value], [end]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("lab.features.numbers.Numbers", ""),
        ("nosuchfork.features.Photo", "it needs the package nosuchfork, which is not installed."),
        ("nosuchfork.Photo", "it needs the package nosuchfork, which is not installed."),
        ("json.JSONDecoder", "it is damaged or not made by lab export"),
        ("lab.features.numbers.Nothing", "it is damaged or not made by lab export"),
        ("no such/fork.Photo", "it is damaged or not made by lab export"),
        (7, "it is damaged or not made by lab export"),
    ],
)
def test_a_file_of_a_package_that_is_not_installed_says_which(target, said, tmp_path):
    import onnx

    made = small_onnx()
    feature = {"_target_": target, "names": ["x"]}
    about = {"inputs": {"numbers": feature | {"entry": "numbers"}}, "outputs": {"mean": feature | {"entry": "mean"}}}
    made.metadata_props.add(key=predictor.METADATA, value=json.dumps(about))
    onnx.save(made, tmp_path / "model.onnx")
    if not said:
        assert predictor.from_onnx(tmp_path / "model.onnx").outputs == {"mean": Numbers(["x"], entry="mean")}
        return
    with pytest.raises(UserError, match=re.escape(f"error: model={tmp_path}/model.onnx: {said}")) as error:
        predictor.from_onnx(tmp_path / "model.onnx")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "outputs", "said"),
    [
        ("onnx", {"picture": IMAGE}, "error: format=onnx: an input and the output picture have an entry named image"),
        ("onnx", {"a": MEAN, "b": MEAN}, "error: export: the outputs a and b have two entries named mean"),
        ("aoti", {"a": MEAN, "b": Note()}, "error: export: the outputs a and b have two entries named mean"),
        ("torch_export", {"picture": IMAGE, "mean": MEAN}, ""),
        ("onnx", {"picture": PICTURE, "mean": MEAN}, ""),
    ],
)
def test_entries_of_one_name_are_refused_before_a_file_is_made(kind, outputs, said):
    size = {"image": np.zeros((2, 1, 2, 2))}
    if not said:
        export.check_entries(kind, size, outputs)
        return
    with pytest.raises(UserError, match=f"^{said}[;.] "):
        export.check_entries(kind, size, outputs)
