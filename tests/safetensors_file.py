"""The reader of safetensors that the Python tests share."""
import json, struct


def read(path):
    """{name: (dtype, shape, bytes)}, metadata"""
    with open(path, "rb") as file:
        data = file.read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    metadata = header.pop("__metadata__", {})

    def numbers(entry):
        first, end = entry["data_offsets"]
        return data[8 + n + first:8 + n + end]

    return {name: (t["dtype"], t["shape"], numbers(t)) for name, t in header.items()}, metadata
