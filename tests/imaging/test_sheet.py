from pathlib import Path

import numpy as np
from etils import epath

from jaxstyle import save_image
from jaxstyle.imaging.sheet import contact_sheet


def flat(path: Path, color: tuple[float, float, float]) -> str:
    save_image(path, np.broadcast_to(np.float32(color), (30, 40, 3)))
    return str(path)


def test_pictures_stand_where_their_content_and_style_meet(tmp_path: Path) -> None:
    red, green, blue = np.eye(3)
    contents = [flat(tmp_path / f"content{i}.png", (0.1 * i, 0, 0)) for i in (1, 2)]
    styles = [(flat(tmp_path / f"style{i}.png", (0, 0, 0.1 * i)),) for i in (1, 2)]
    cells: dict[tuple[str, tuple[str, ...]], epath.Path | str] = {
        (contents[0], styles[0]): epath.Path(flat(tmp_path / "a.png", tuple(red))),
        (contents[0], styles[1]): epath.Path(flat(tmp_path / "b.png", tuple(green))),
        (contents[1], styles[0]): epath.Path(flat(tmp_path / "c.png", tuple(blue))),
        (contents[1], styles[1]): "failed: no reason",
    }
    sheet = contact_sheet(contents, styles, cells, "a caption") / 255

    def middle(color: np.ndarray) -> np.ndarray:
        return np.argwhere(np.abs(sheet - color).max(axis=2) < 0.02).mean(axis=0)

    assert middle(red)[0] == middle(green)[0] < middle(blue)[0]
    assert middle(red)[1] == middle(blue)[1] < middle(green)[1]
    # The remark is written in grey on grey below the green picture.
    row, column = int(middle(blue)[0]), int(middle(green)[1])
    remark = sheet[row - 60 : row + 60, column - 60 : column + 60]
    assert 0.85 < remark.mean() < 0.93
    assert remark.min() < 0.5
