"""Files that are there whole or not at all, and the log of losses."""

import csv
import os
import pathlib
from collections.abc import Callable, Sequence


def write(path: pathlib.Path, save: Callable[[pathlib.Path], object]) -> None:
    """Calls `save` with a name beside `path`, and gives the file its name when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    save(partial)
    os.replace(partial, path)


class Log:
    """One row of numbers for each step, on disk as soon as it is known; exact, since `repr` of a float is."""

    def __init__(self, path: pathlib.Path, columns: Sequence[str], steps: int):
        """Keeps the first `steps` rows: those which the state that training goes on from has seen."""
        self.path, self.columns = path, tuple(columns)
        lines = path.read_text(encoding="utf-8").splitlines()[1 : steps + 1] if path.exists() else []
        if len(lines) != steps:
            raise RuntimeError(f"{path}: {len(lines)} steps logged, but the checkpoint has seen {steps}")
        lines = [",".join(self.columns), *lines, ""]
        write(path, lambda partial: partial.write_text("\n".join(lines), encoding="utf-8"))

    def append(self, row: dict[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(",".join(repr(row[column]) for column in self.columns) + "\n")

    def read(self) -> dict[str, list[float]]:
        with self.path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {column: [float(row[column]) for row in rows] for column in self.columns}
