"""The bytes of point files."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np

POINTS = np.array([[1.0, -2.5], [0.3, 4e-3], [5.0, 6.0]])


def gz(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(*arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, *arrays)
    return buffer.getvalue()


def npy_header(shape: str, header="{{'descr': '<f8', 'fortran_order': False, 'shape': {}, }}\n"):
    header = header.format(shape).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
