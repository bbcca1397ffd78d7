"""Safetensors files, and what is done to them: eight bytes of length, a header in JSON, the tensors' bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Spoil = Callable[[Path], Any]


def read(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write(path: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def padded(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(1000))


def huge_header(path: Path) -> None:
    path.write_bytes((1 << 40).to_bytes(8, "little") + path.read_bytes()[8:])


def _tensors(header: dict[str, Any]) -> list[str]:
    return sorted(name for name in header if name != "__metadata__")


def overlap(path: Path) -> None:
    """One tensor lies where another one does."""
    header, data = read(path)
    first, second = _tensors(header)[:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]
    write(path, header, data)


def wrong_shape(path: Path) -> None:
    header, data = read(path)
    name = next(name for name in _tensors(header) if len(header[name]["shape"]) == 2)
    header[name]["shape"] = [int(np.prod(header[name]["shape"]))]
    write(path, header, data)


def extra(path: Path) -> None:
    header, data = read(path)
    header["extra"] = {"dtype": "F32", "shape": [4], "data_offsets": [len(data), len(data) + 16]}
    write(path, header, data + bytes(16))


def missing(path: Path) -> None:
    """The tensor that lies last."""
    header, data = read(path)
    last = max(_tensors(header), key=lambda name: header[name]["data_offsets"][1])
    start = header.pop(last)["data_offsets"][0]
    write(path, header, data[:start])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def no_numbers(path: Path) -> None:
    header, data = read(path)
    write(path, header, np.full(len(data) // 4, np.nan, "<f4").tobytes())


def pickle(canary: Path) -> bytes:
    """What would make a folder of this name if it were unpickled: the text form of os.mkdir(canary)."""
    return b"cos\nmkdir\n(V%b\ntR." % str(canary).encode()


CHANGES: dict[str, Spoil] = {
    "cut": cut,
    "padded": padded,
    "huge header": huge_header,
    "overlapping tensors": overlap,
    "wrong shape": wrong_shape,
    "a tensor more": extra,
    "a tensor less": missing,
}
