"""Tables in text files: numbers in columns, one row an example. What is not a number is refused by row and column."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ntkit.errors import InputError

_DELIMITERS = ",;\t"
_MISSING = {"", "?", "na", "n/a", "nan", "null", "none", "-"}


@dataclass(frozen=True)
class Table:
    """The cells of a file as text, with the line of the file that each row starts on."""

    path: Path
    names: tuple[str, ...]  # of the columns; () if the file has no header
    rows: list[list[str]]
    lines: list[int]

    def place(self, row: int, column: int) -> str:
        """Where a cell stands, as a person would look for it."""
        name = f" ({self.names[column]!r})" if self.names else ""
        return f"{self.path.name}, line {self.lines[row]}, column {column + 1}{name}"

    def numbers(self, columns: list[int]) -> np.ndarray:
        """The chosen columns as float64 (rows, columns); raises `InputError` at the first cell that is not finite."""
        cells = [[row[column] for column in columns] for row in self.rows]
        try:
            values = np.array(cells, dtype=np.str_).astype(np.float64)
        except ValueError:
            values = None
        underscore = any("_" in text for row in cells for text in row)  # NumPy reads 1_0 as 10
        if values is None or underscore or not np.isfinite(values).all():
            for row, texts in enumerate(cells):
                for column, text in zip(columns, texts, strict=True):
                    self._check_cell(row, column, text)
        return np.asarray(values)

    def _check_cell(self, row: int, column: int, text: str) -> None:
        if text.strip().lower() in _MISSING:
            way_out = self._trailing(column) or "Fill it in or remove the row."
            raise InputError(f"{self.place(row, column)}: the value is missing. {way_out}")
        if not is_number(text):
            way_out = _decimal_commas(text) or (
                "Encode text columns as numbers (one column for each category), or remove them."
            )
            raise InputError(f"{self.place(row, column)}: {text!r} is not a number. {way_out}")
        if not np.isfinite(float(text)):
            raise InputError(f"{self.place(row, column)}: {text!r} is not finite. Replace it or remove the row.")

    def target(self, column: int) -> np.ndarray:
        """One column as numbers if all its cells are numbers, else as text (class labels); nothing may be missing."""
        texts = [row[column].strip() for row in self.rows]
        for row, text in enumerate(texts):
            if text.lower() in _MISSING:
                way_out = self._trailing(column) or "Fill it in or remove the row."
                raise InputError(f"{self.place(row, column)}: the target is missing. {way_out}")
        if all(map(is_number, texts)):
            return self.numbers([column])[:, 0]
        if all(is_number(text) or _decimal_commas(text) for text in texts):  # no names of classes
            self.numbers([column])
        return np.array(texts)

    def _trailing(self, column: int) -> str:
        """The way out where lines end in a delimiter; empty where they do not."""
        last = column == len(self.rows[0]) - 1 and not any(row[column].strip() for row in self.rows)
        return "Every line ends in a delimiter, which makes an empty last column: remove it." if last else ""

    def column(self, target: str | int) -> int:
        """The position of a column given by name or by number (from 0; negative from the end)."""
        count = len(self.rows[0])
        if isinstance(target, str):
            if target not in self.names:
                have = ", ".join(self.names) if self.names else "none: the file has no header"
                raise InputError(f"`target` names the column {target!r}, but the names in {self.path.name} are {have}.")
            return self.names.index(target)
        if not -count <= target < count:
            raise InputError(f"`target` is column {target}, but {self.path.name} has {count} columns (from 0).")
        return target % count


def is_number(text: str) -> bool:
    """Whether `float` reads it; underscores, which `float` reads too, are no part of a number in a table."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _decimal_commas(text: str) -> str:
    """The way out where a cell is 1,5, or 5;2 where a file without header was cut at its decimal commas."""
    if is_number(text.strip().replace(",", ".", 1)):
        return "Write decimals with a point."
    if ";" in text and all(is_number(part) for part in text.split(";")):
        return "It looks like semicolons between decimal commas: write decimals with a point."
    return ""


def read_table(path: Path, header: bool | None = None) -> Table:
    """The cells of a CSV file. `header=None`: the first row is a header if none of its cells is a number.

    Commas, semicolons and tabs are understood; empty lines are skipped.

    **Raises:** `InputError` if the file is empty, not UTF-8 text, ragged (naming the line), or repeats a column name.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            delimiter = max(_DELIMITERS, key=file.readline().count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            numbered = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is not UTF-8 text (byte {error.start}). Save it as CSV in UTF-8.") from error
    except csv.Error as error:
        raise InputError(f"{path.name} is not a readable CSV file: {error}.") from error
    if not numbered:
        raise InputError(f"{path.name} is empty.")
    lines, rows = [line for line, _ in numbered], [row for _, row in numbered]
    width = len(rows[0])
    for line, row in numbered:
        if len(row) != width:
            more = " Remove the delimiter at its end." if len(row) == width + 1 and not row[-1].strip() else ""
            raise InputError(f"{path.name}, line {line}: {len(row)} columns, but the first row has {width}.{more}")
    if header is None:
        header = not any(is_number(cell) or cell.strip().lower() in _MISSING - {""} for cell in rows[0])
    names = tuple(cell.strip() for cell in rows[0]) if header else ()
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise InputError(f"{path.name}: the header names {', '.join(sorted(map(repr, repeated)))} more than once.")
    if header and len(rows) == 1:
        raise InputError(f"{path.name} has a header but no rows.")
    return Table(path, names, rows[header:], lines[header:])
