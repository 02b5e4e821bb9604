"""Write the data files of the example kits, out of data that scikit-learn ships: python make_kits.py [FOLDER].

The same files come out each time; the committed ones were made by it.
"""

import gzip
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from sklearn.datasets import load_diabetes, load_digits, load_iris

HERE = Path(__file__).parent


def iris_csv() -> bytes:
    """150 flowers, 4 lengths in cm, 3 species."""
    data = load_iris()
    frame = pd.DataFrame(data.data, columns=[name.removesuffix(" (cm)") for name in data.feature_names])
    frame["species"] = [str(data.target_names[label]) for label in data.target]
    return _csv(frame)


def diabetes_csv() -> bytes:
    """442 patients, 10 measurements in their own units, the disease's progression after a year."""
    data = load_diabetes(scaled=False)
    frame = pd.DataFrame(data.data, columns=data.feature_names)
    frame["progression"] = data.target
    whole = [name for name in frame if (frame[name] % 1 == 0).all()]
    return _csv(frame.astype(dict.fromkeys(whole, int)))


def digits_csv_gz() -> bytes:
    """1797 images of 8 x 8 pixels, 0 to 16, row after row, and the digit that they show."""
    data = load_digits()
    frame = pd.DataFrame(data.data.astype(int), columns=[f"r{row}c{column}" for row in range(8) for column in range(8)])
    frame["digit"] = data.target
    packed = io.BytesIO()
    # No name and no time in the header, or each run would make another file.
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as stream:
        stream.write(_csv(frame))
    return packed.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "iris/iris.csv": iris_csv,
    "diabetes/diabetes.csv": diabetes_csv,
    "digits/digits.csv.gz": digits_csv_gz,
}
"""Path inside this folder -> what makes the content."""


def main(folder: Path = HERE) -> None:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content())


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
