"""Rows of a table: CSV, text with a JSON object in each line, or parquet."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence

from kakusan.extras import need

MOST_UNPACKED = 2**30
"""Bytes of a parquet table, unpacked; a larger one is no table of captions."""


def table_rows(data: bytes, name: str) -> Iterable[tuple[int, dict[str, object]]]:
    """(line, row) of a table, by the end of its name: `.csv`, `.parquet`, else JSON lines.

    Raises:
        ValueError: not what its name says, or not UTF-8.
        ImportError: a parquet file, and pyarrow is not installed.
    """
    if name.endswith(".parquet"):
        return parquet_rows(data, name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    return csv_lines(text, name) if name.endswith(".csv") else json_lines(text, name)


def parquet_rows(data: bytes, name: str) -> Iterable[tuple[int, dict[str, object]]]:
    """(number from 1 on, row) of a parquet table; columns of bytes, such as pictures, are not read.

    Raises:
        ValueError: a damaged file, or one that unpacks to more than a table of captions would.
        ImportError: pyarrow is not installed.
    """
    arrow = need("pyarrow", extra="parquet", what="reading parquet files")
    parquet = need("pyarrow.parquet", extra="parquet", what="reading parquet files")
    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        if sum(group.total_byte_size for group in groups) > MOST_UNPACKED:
            raise ValueError(f"{name} unpacks to more than {MOST_UNPACKED // 2**20} MiB; is it a table of captions?")
        schema, types = file.schema_arrow, arrow.types
        plain = [f.name for f in schema if not (types.is_binary(f.type) or types.is_large_binary(f.type))]
        rows = file.read(columns=plain).to_pylist()
    except (arrow.ArrowException, OSError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"{name} is not a readable parquet file ({said}); get it again") from error
    return list(enumerate(rows, start=1))


def csv_lines(text: str, name: str) -> Iterable[tuple[int, dict[str, object]]]:
    """(line, row) of CSV text; columns of one name are numbered.

    Raises:
        ValueError: no CSV, or a row with more or fewer columns than the first line.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        reader.fieldnames = unrepeated(list(reader.fieldnames or ()))
        for values in reader:
            if None in values or any(v is None for v in values.values()):
                raise ValueError(f"{name} line {reader.line_num} has more or fewer columns than the first line")
            yield reader.line_num, dict(values)
    except csv.Error as error:
        raise ValueError(f"{name} line {reader.line_num} is not CSV ({error})") from error


def json_lines(text: str, name: str) -> Iterable[tuple[int, dict[str, object]]]:
    """(line, row) of text with a JSON object in each line.

    Raises:
        ValueError: a line that is something else.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} line {number} is not JSON ({error})") from error
        if not isinstance(values, dict):
            raise ValueError(f'{name} line {number} is not a JSON object such as {{"file_name": "a.png"}}')
        yield number, values


def unrepeated(names: Sequence[str]) -> list[str]:
    """Names of columns with repeated ones numbered: caption, caption -> caption, caption_2."""
    seen: Counter[str] = Counter()
    taken = set(names)
    found = []
    for name in names:
        seen[name] += 1
        new = name
        while seen[name] > 1 and new in taken:
            new = f"{name}_{seen[name]}"
            seen[name] += new in taken
        taken.add(new)
        found.append(new)
    return found
