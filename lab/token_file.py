"""Token files: what their bytes are, and which of them validate.

Read are files without a header (uint16, as nanoGPT writes them; Megatron's, whose `.idx` beside it tells the type),
with the 256-word header of llm.c (uint16 or uint32; modded-nanogpt's is the same), and arrays of numpy.  Whatever else
can be told from its bytes is refused by name: a file of another kind read as uint16 trains to the end without a word.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lab.check import InputError, require
from lab.document import matches, names

HEADER_WORDS = 256
HEADERS = {20240520: (1, "<u2"), 20240801: (7, "<u4")}  # magic of llm.c: its version, what its tokens are
_MEGATRON = b"MMIDIDX\0\0"
_MEGATRON_TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_NUMPY = b"\x93NUMPY"
OTHERS = {
    b"PK\x03\x04": "a zip archive (.npz or a saved tensor)",
    b"\x1f\x8b": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"PAR1": "a parquet table",
    b"ARROW1": "an arrow table",
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a model in GGUF",
    b"\x04\x22\x4d\x18": "compressed by lz4",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"SQLite format 3\0": "an SQLite database",
    b"\x89PNG\r\n": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"%PDF-": "a PDF",
    b"\x7fELF": "a program",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    _MEGATRON: "the index of a Megatron file: name the .bin beside it",
}
VALIDATES = frozenset({"val", "valid", "validation", "validate", "eval", "evaluation", "dev"})
TESTS = frozenset({"test", "tests"})
_LOOKED_AT = 1 << 20
_ENOUGH = 64  # tokens from which on the look of a file says anything


def read(spec: str, path: str, fraction: float) -> tuple[list[np.ndarray], list[np.ndarray], str]:
    """Parts to train on, parts to validate with, and how that was decided, in words.

    Files with `val`, `valid`, `validation`, `eval` or `dev` as a word of their name, or of a folder's below the common
    one, validate; those with the word `test` are left out.  Without any the end of the last files validates.

    Raises:
        InputError: no token file, one that is something else, or nothing to train on.
    """
    files = _token_files(spec, path)
    words = [{word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)} for name in names(files)]
    for_test = [file for file, found in zip(files, words, strict=True) if found & TESTS and not found & VALIDATES]
    if len(for_test) == len(files):
        for_test = []
    validation = [file for file, found in zip(files, words, strict=True) if found & VALIDATES]
    train = [file for file in files if file not in validation and file not in for_test]
    require(bool(train), f"data.corpus={spec} has validation files only: name the training files too")
    left = f"; {_listed(for_test)} left out" if for_test else ""
    parts = [tokens(file) for file in train]
    if validation:
        told = f"to validate with by their names: {_listed(validation)} ({len(validation)} of {len(files)} files){left}"
        return parts, [tokens(file) for file in validation], told
    train_parts, ends = _ends(parts, fraction)
    return (
        train_parts,
        ends,
        f"no file is called val, dev or eval: the end of {train[-1].name} is to validate with{left}",
    )


def first_read(spec: str, path: str, fraction: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The parts of version 0.1.0: `val` anywhere in the name validates, else the end of the last file by itself."""
    files = matches(spec, path)
    validation = [tokens(file) for file in files if "val" in file.name]
    train = [tokens(file) for file in files if "val" not in file.name]
    require(bool(train), f"data.corpus={spec} has validation files only: name the training files too")
    if validation:
        return train, validation
    cut = int(train[-1].size * (1 - fraction))
    return [*train[:-1], train[-1][:cut]], [train[-1][cut:]]


def _ends(parts: Sequence[np.ndarray], fraction: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """All but the last `fraction` of the tokens of all parts, and those."""
    total = sum(part.size for part in parts)
    cut, train, validation = int(total * (1 - fraction)), [], []
    for part in parts:
        here = min(max(cut, 0), part.size)
        train += [part[:here]] if here > 0 else []
        validation += [part[here:]] if here < part.size else []
        cut -= part.size
    return train, validation


def _token_files(spec: str, path: str) -> list[Path]:
    """The files of a path; of a folder, which may hold other things too, those that are called .bin or .npy."""
    files = matches(spec, path)
    if not Path(path).expanduser().is_dir():
        return files
    found = [file for file in files if file.suffix in (".bin", ".npy")]
    require(bool(found), f"data.corpus={spec} holds no .bin or .npy file: name the files, as in bin:FOLDER/*.tokens")
    return found


def _listed(files: Sequence[Path]) -> str:
    shown = ", ".join(file.name for file in files[:3])
    return shown if len(files) <= 3 else f"{shown} and {len(files) - 3} more"


def tokens(file: Path) -> np.ndarray:
    """The tokens of a file, memory-mapped; whole numbers without a sign, so that a negative one is beyond any model.

    Raises:
        InputError: it holds something else, or is damaged.
    """
    size = file.stat().st_size
    start = _start(file, _LOOKED_AT)
    for magic, what in OTHERS.items():
        require(not start.startswith(magic), f"{file} is not a token file: it is {what}")
    require(start[257:262] != b"ustar", f"{file} is not a token file: it is a tar archive")
    require(not _safetensors(start, size), f"{file} is not a token file: it is a model in safetensors")
    if start.startswith(_NUMPY):
        return _numpy(file)
    with_header = _headed(file, start, size)
    if with_header is not None:
        return with_header
    index = file.with_suffix(".idx")
    if index.is_file() and _start(index, len(_MEGATRON)) == _MEGATRON:
        return _unsigned(file, np.memmap(file, dtype=_megatron_type(index), mode="r"))
    _check_no_text(file, start)
    require(size % 2 == 0 and size > 0, f"{file} is not a uint16 token file: its size is {size} bytes")
    _check_uint16(file, start)
    return np.memmap(file, dtype="<u2", mode="r")


def _start(file: Path, count: int) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(count)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): check its permissions") from None


def _safetensors(start: bytes, size: int) -> bool:
    """Whether a file begins with the length of a JSON object, and with that object."""
    return len(start) > 9 and start[8:10] == b'{"' and int.from_bytes(start[:8], "little") + 8 <= size


def _unsigned(file: Path, found: np.ndarray) -> np.ndarray:
    if found.itemsize < 8:
        return found.view(f"<u{found.itemsize}") if found.dtype.kind == "i" else found
    require(
        found.size == 0 or 0 <= int(found.min()) and int(found.max()) < 1 << 31,
        f"{file} holds numbers that are no tokens (from {found.min()} to {found.max()}): leave them out",
    )
    return found.astype("<u4")


def _numpy(file: Path) -> np.ndarray:
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{file} is not a readable array of numpy: {error}") from None
    whole = found.ndim == 1 and found.size > 0 and found.dtype.kind in "iu"
    shape = "x".join(map(str, found.shape))
    require(whole, f"{file} holds {found.dtype} of shape {shape or '()'}: save one row of whole numbers")
    require(found.dtype == found.dtype.newbyteorder("<"), f"{file} holds {found.dtype}, big-endian: save it as uint16")
    return _unsigned(file, found)


def _headed(file: Path, start: bytes, size: int) -> np.ndarray | None:
    """The tokens after a header of 256 words; None where the file has none."""
    if len(start) < 12:
        return None
    little, big = np.frombuffer(start[:12], "<i4"), np.frombuffer(start[:12], ">i4")
    require(int(big[0]) not in HEADERS, f"{file} is big-endian (magic {big[0]}): write it with little-endian numbers")
    magic = int(little[0])
    if magic not in HEADERS:
        like = 20230101 <= magic <= 20391231 and magic // 100 % 100 in range(1, 13)
        require(
            not (like and little[1] < 100), f"{file} has a header of magic {magic}, which is no token file known here"
        )
        return None
    version, dtype = HEADERS[magic]
    held = (size - 4 * HEADER_WORDS) / np.dtype(dtype).itemsize
    require(
        little[1] == version and little[2] == held > 0,
        f"{file} states version {little[1]} and {little[2]} tokens, and holds {held:g}: it is damaged or newer",
    )
    return np.memmap(file, dtype=dtype, mode="r", offset=4 * HEADER_WORDS)


def _megatron_type(index: Path) -> str:
    code = _start(index, len(_MEGATRON) + 9)[-1:]
    found = _MEGATRON_TYPES.get(code[0] if code else 0)
    require(found is not None, f"{index} states no type of whole numbers: convert the file to uint16")
    assert found is not None
    return found


def _check_no_text(file: Path, start: bytes) -> None:
    bytes_ = np.frombuffer(start, np.uint8)
    control = (bytes_ < 9) | ((bytes_ > 13) & (bytes_ < 32) & (bytes_ != 27))
    if bytes_.size >= 2 * _ENOUGH and not control.any() and _utf8(start):
        raise InputError(f"{file} is text: use data.corpus=text:{file}")
    if (
        start[:2] in (b"\xff\xfe", b"\xfe\xff")
        and np.isin(bytes_[2:], (0, *range(9, 14), *range(32, 127))).mean() > 0.9
    ):
        raise InputError(f"{file} is text in UTF-16: convert it to UTF-8 and use data.corpus=text:{file}")


def _check_uint16(file: Path, start: bytes) -> None:
    """Refuse what looks like wider numbers or swapped bytes: no stream of tokens does, by chance."""
    words = np.frombuffer(start[: len(start) // 2 * 2], "<u2")
    if words.size < _ENOUGH:
        return
    remedy = "save them as uint16, or as an array of numpy (.npy)"
    quads = words[: words.size // 4 * 4].reshape(-1, 4)
    for order, low, seen in (("little", 0, quads), ("big", -1, quads.byteswap())):
        for width in (4, 2):  # words of a number, of which all but one are nearly empty
            numbers = seen.reshape(-1, width)
            rest = np.delete(numbers, low, axis=1)
            if numbers[:, low].max() > 3 and np.isin(rest, (0, 1, 2, 3, 0xFFFF)).all():  # 0xFFFF: below zero
                raise InputError(f"{file} holds {16 * width}-bit numbers, {order}-endian: {remedy}")
    for dtype in ("<f8", "<f4"):
        numbers = quads.view(dtype)
        with np.errstate(invalid="ignore"):
            whole = np.isfinite(numbers).all() and (numbers == np.rint(numbers)).all()
        if whole and numbers.max() > 3:
            raise InputError(f"{file} holds {8 * numbers.itemsize}-bit floats: {remedy}")
    most_low, most_high = int((words & 0xFF).max()), int((words >> 8).max())
    if words.size >= 4096 and most_high == 0xFF and most_low < 0xFB:
        raise InputError(f"{file} holds big-endian numbers: {remedy}")
    if words.size >= 4096:
        require(most_low > 0 or most_high > 0, f"{file} holds nothing but zeros: it is damaged, write it again")
        low, high = (np.bincount(part, minlength=256) / words.size for part in (words & 0xFF, words >> 8))
        one_kind = (
            np.abs(low - high).sum() < 0.25 and low.max() > 0.02
        )  # bytes that are all equally frequent may be words
        require(not one_kind, f"{file} holds 8-bit numbers: {remedy}")


def _utf8(start: bytes) -> bool:
    try:
        start[:-3].decode() if len(start) == _LOOKED_AT else start.decode()
    except UnicodeDecodeError as error:
        return error.end >= len(start) - 3 and error.start >= len(start) - 6 and len(start) == _LOOKED_AT
    return True
