"""What a compiled program consists of, by its text."""

import collections
import math
import re

from measuring.tables import Row

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?)\s([a-z][a-z\d\-]*)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "c64": 8, "c128": 16}
_FREE = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "after-all", "iota"}
"""Instructions that cost nothing: what they stand for is there already, or part of another."""

_COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def entry(text: str) -> list[re.Match[str]]:
    """Return the instructions of a program's main computation: name, shape, operation and rest."""
    main = re.search(r"^ENTRY .*?\{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE)
    assert main is not None, "not a program's text"
    return [found for line in main[1].splitlines() if (found := _INSTRUCTION.match(line))]


def counts(text: str) -> Row:
    """Return the numbers of an update's instructions of the kinds that accelerators wait for."""
    instructions = entry(text)
    operations = collections.Counter(each[3] for each in instructions)
    kernels = [each for each in instructions if not _is_free(each[3])]
    moved = ("copy", "transpose")
    copies = [
        each for each in kernels if each[3] in moved or each[1].startswith("wrapped_transpose")
    ]
    found: Row = {
        "kernels": len(kernels),
        "loops": len(re.findall(r" while\(", text)),
        "copies": len(copies),
        "FFTs, scatters, gathers": len(re.findall(r" (?:fft|scatter|gather)\(", text)),
        "custom calls": operations["custom-call"],
    }
    for kind in _COLLECTIVES:
        calls = re.findall(rf" = (.*?) {kind}(?:-start)?\(", text)
        if calls:
            found[kind] = f"{len(calls)} ({sum(map(size, calls)) / 1e6:.2g} MB)"
    return found


def _is_free(operation: str) -> bool:
    return operation in _FREE or operation.endswith("-done")


def traffic(text: str) -> int:
    """Return the bytes that the kernels read and write, each operand and result once."""
    instructions = entry(text)
    sizes = {each[1]: size(each[2]) for each in instructions}
    return sum(
        sizes[each[1]] + sum(sizes.get(name, 0) for name in re.findall(r"%([\w.\-]+)", each[4]))
        for each in instructions
        if not _is_free(each[3])
    )


def size(shape: str) -> int:
    """Return the bytes of an array or of a tuple of arrays by its text, such as `f32[3,4]{1,0}`."""
    return sum(
        _BYTES.get(kind, int(kind.lstrip("abcdefghijklmnopqrstuvwxyz") or 8) // 8)
        * math.prod(int(length) for length in lengths.split(",") if length)
        for kind, lengths in _ARRAY.findall(shape)
    )
