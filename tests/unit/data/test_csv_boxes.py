"""Tables of boxes, as tools call their columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from boxwright.data.dataset import open_dataset
from boxwright.errors import UserError
from tests.unit.data.small_sets import write_image

CORNERS = [[0.25, 0.25, 0.375, 0.3333]]  # 4, 4 to 28, 20 of 64 x 48


@pytest.mark.parametrize(
    ("text", "place", "name"),
    [
        ('"image","xmin","ymin","xmax","ymax","label"\n"x.jpg",4,4,28,20,"cat"\n', "x.jpg", "cat"),  # VoTT
        ("filename,width,height,class,xmin,ymin,xmax,ymax\nx.jpg,64,48,cat,4,4,28,20\n", "images/x.jpg", "cat"),
        ("filename,width,height,class,xmin,ymin,xmax,ymax\nx.jpg,128,96,cat,8,8,56,40\n", "x.jpg", "cat"),  # scaled
        ('image_id,width,height,bbox,source\nx,64,48,"[4.0, 4.0, 24.0, 16.0]",s\n', "train/x.jpg", "object"),
        ("ImageID,LabelName,XMin,XMax,YMin,YMax\nx,cat,.0625,.4375,.083333,.416667\n", "x.jpg", "cat"),  # Open Images
        ("image_path;x;y;w;h;class_name\nsub\\x.jpg;4;4;24;16;cat\n", "sub/x.jpg", "cat"),
        ("path,x,y,width,height,label\nx.jpg,4,4,24,16,cat\n", "x.jpg", "cat"),
        ("\ufefffilename,x_min,y_min,x_max,y_max,category\nx.jpg,4,4,28,20,cat\n", "x.jpg", "cat"),
        ("imgs/x.jpg,4,4,28,20,cat\n", "imgs/x.jpg", "cat"),  # keras-retinanet: no header
        ("filename,x_center,y_center,width,height,class\nx.jpg,.25,.25,.375,.3333,cat\n", "x.jpg", "cat"),
        ("filename,x_center,y_center,width,height,class\nx.jpg,16,12,24,16,cat\n", "x.jpg", "cat"),
        ("filename,image_width,image_height,cx,cy,w,h,class\nx.jpg,128,96,32,24,48,32,cat\n", "x.jpg", "cat"),
        ("filename,left,top,w,h,class\nx.jpg,.0625,.08333,.375,.3333,cat\n", "x.jpg", "cat"),
    ],
)
def test_columns(tmp_path: Path, text: str, place: str, name: str) -> None:
    write_image(tmp_path / place)
    (tmp_path / "boxes.csv").write_text(text, encoding="utf-8")
    index = open_dataset(tmp_path / "boxes.csv", "train")
    assert index.names == (name,)
    np.testing.assert_allclose(index.boxes, CORNERS, atol=1e-3)


def test_rows_that_are_no_box(tmp_path: Path) -> None:
    for stem in "xyz":
        write_image(tmp_path / f"{stem}.jpg")
    rows = ["filename,xmin,ymin,xmax,ymax,class", "x.jpg,4,4,28,wide,cat", "x.jpg,4,4,28,20,dog", "y.jpg,,,,,"]
    rows += ["gone.jpg,1,1,9,9,cat", "z.jpg,9,9,9,12,cat", "z.jpg,4,4,28,20,"]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    index = open_dataset(tmp_path / "boxes.csv", "train")
    assert ([path.stem for path in index.paths], index.names) == (["x", "y", "z"], ("cat", "dog"))
    assert [(problem.kind, problem.line) for problem in index.problems] == [
        ("unreadable label", 2),
        ("unknown class", 7),
        ("missing image", 0),
        ("degenerate box", 6),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "does not name the columns of boxes"),
        ("filename,image_width,image_height,cx,cy\nx.jpg,64,48,4,4\n", "does not name the columns of boxes"),
        (
            "filename,x,y,w,h\nx.jpg,.8,.5,.4,.4\n",
            "in the column x may be of a corner, or, as in YOLO labels, of the centre",
        ),
        ('image_id,bbox\nx,"[.1, .2, .3, .4]"\n', "in the column bbox may be"),
        ("", "does not name the columns of boxes"),
        ("filename,xmin,ymin,xmax,ymax\ngone.jpg,1,1,9,9\n", "cannot find its first image 'gone.jpg'"),
        (f"filename,xmin,ymin,xmax,ymax\n{'long' * 99},1,1,9,9\n", "cannot find its first image 'longlong"),
        ("filename,xmin,ymin,xmax,ymax\nx,1,1,9,9\n", "x.jpg may be"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, says: str) -> None:
    write_image(tmp_path / "one/x.jpg")
    write_image(tmp_path / "two/x.jpg")
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(UserError, match=says):
        open_dataset(tmp_path / "boxes.csv", "train")


def test_classes_that_are_too_many_or_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "x.jpg")
    file, digits = tmp_path / "train.csv", "9" * 5000
    rows = [f"x.jpg,4,4,28,20,{name}" for name in (digits, "10", "9", "cat")]
    file.write_text("\n".join(["filename,xmin,ymin,xmax,ymax,class", *rows]))
    assert open_dataset(file, "train").names == ("9", "10", digits, "cat")
    monkeypatch.setattr("boxwright.data.index.MOST_CLASSES", 3)
    file.write_text("\n".join(["filename,xmin,ymin,xmax,ymax,class", *rows, ""]))  # another content than in the cache
    with pytest.raises(UserError, match="a data set of 4 classes; at most 3"):
        open_dataset(file, "train")
