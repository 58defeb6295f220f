"""The split: nothing that says the same is on both sides, and the fraction is the one that was asked for.

What is on both sides is counted by brute force: every window of 64 bytes of the validation text, white space aside.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lab import corpus, document, overlap, split
from lab.check import InputError
from lab.config import DataConfig
from lab.stream import Stream

pytestmark = pytest.mark.host

Texts = dict[str, str]


def made(seed: int, lines: int, words: int = 2000) -> str:
    """Lines of eight words that no other seed has."""
    rng = np.random.default_rng(seed)
    known = ["".join(rng.choice(list("abcdefghij"), size=size)) for size in rng.integers(2, 9, words)]
    return "".join(" ".join(rng.choice(known, size=8)) + "\n" for _ in range(lines))


def written(folder: Path, texts: Texts) -> Path:
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return folder


def load(spec: str, **fields: object) -> corpus.Corpus:
    corpus._load.cache_clear()
    return corpus.load(DataConfig(corpus=spec, **fields))  # type: ignore[arg-type]


def held(train: bytes, validation: bytes, window: int = 64) -> float:
    """The share of validation windows that stand in training, white space aside: every one, by brute force."""
    train, validation = (re.sub(rb"[\s\0]+", b"", part) for part in (train, validation))
    known = {train[i : i + window] for i in range(len(train) - window + 1)}
    places = range(len(validation) - window + 1)
    return sum(validation[i : i + window] in known for i in places) / len(places)


def sides(texts: Texts, fraction: float, how: Callable[..., split.Split] = split.split) -> tuple[bytes, bytes, float]:
    """Both sides, and the part of the bytes that validates."""
    found = how([(name, text.encode()) for name, text in sorted(texts.items())], fraction)
    train, validation = b"\n".join(found.train), b"\n".join(found.validation)
    return train, validation, len(validation) / (len(train) + len(validation))


PLAIN = {f"{number:02d}.txt": made(number, 30) for number in range(24)}


def edited(text: str) -> str:
    words = text.split(" ")
    words[::15] = ["edit"] * len(words[::15])
    return " ".join(words)


@pytest.mark.parametrize(
    "copy",
    [
        lambda text: text + "\n",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(" ", "  ").replace("\n", "\n    "),
        str.upper,
        edited,
        lambda text: "a licence of its own, above a text of others\n" * 3 + text,
        lambda text: text[: len(text) // 2],
    ],
    ids=["newline", "crlf", "indented", "case", "edited", "header", "half"],
)
@pytest.mark.parametrize("documents", [24, 4])
def test_near_copies_are_on_one_side(copy: Callable[[str], str], documents: int) -> None:
    plain = dict(list(PLAIN.items())[:documents])
    texts = plain | {f"z{name}": copy(text) for name, text in plain.items()}
    train, validation, share = sides(texts, 0.1)
    assert held(train.lower(), validation.lower()) < 0.01
    assert share == pytest.approx(0.1, rel=0.2)


def test_the_first_version_had_copies_on_both_sides() -> None:
    """The control: the brute force sees what 0.1.0 did, which stays for the stores that were begun with it."""
    texts = PLAIN | {f"z{name}": text + "\n" for name, text in PLAIN.items()}
    train, validation, _ = sides(texts, 0.1, split.first_version)
    assert held(train, validation) > 0.5


def test_a_header_that_all_have_makes_no_copies_of_them() -> None:
    """Boilerplate is shared by everything, and everything is still used."""
    licence = "one or more agreements; see the file NOTICE for details of this licence\n" * 8
    texts = {name: licence + text for name, text in PLAIN.items()}
    train, validation, share = sides(texts, 0.1)
    assert share == pytest.approx(0.1, rel=0.1)
    assert len(train) + len(validation) > 0.99 * sum(map(len, texts.values()))


@pytest.mark.parametrize(
    ("texts", "fraction"),
    [
        ({"big": made(1, 1500)} | {f"{i}": made(i, 4) for i in range(2, 21)}, 0.1),
        ({f"{i}": made(i, 40) for i in range(20)}, 0.01),
        ({f"{i}": made(i, 40 + 2 * i) for i in range(20)}, 0.05),
        ({f"{i}": made(i, 40) for i in range(5)}, 0.3),
        ({"a": made(1, 400).replace("\n", " ")}, 0.1),
        ({"a": "".join(made(i, 40).replace("\n", " ") + "\n" for i in range(20))}, 0.08),
        (PLAIN, 0.5),
    ],
    ids=["one large", "none is small", "twenty", "few", "one line", "long lines", "half"],
)
def test_the_fraction_is_what_was_asked_for(texts: Texts, fraction: float) -> None:
    train, validation, share = sides(texts, fraction)
    assert share == pytest.approx(fraction, rel=0.12)
    assert len(train) + len(validation) >= sum(map(len, texts.values()))
    assert held(train, validation) == 0


def test_a_cut_is_between_characters() -> None:
    text = ("€" * 3000).encode()
    for fraction in (0.1, 0.2, 0.3001):
        place = split.cut(text, fraction)
        assert place % 3 == 0
        assert 0 < (1 - place / len(text)) / fraction < 1.01


def test_what_cannot_come_near_names_the_remedy(tmp_path: Path) -> None:
    written(tmp_path, {"a": "x" * 10 + "\n", "b": "y" * 9 + "\n"})
    written(tmp_path / "one", {"a": "x"})
    with pytest.raises(InputError, match=r"give a longer text, or another data\.validation_fraction than 0\.01"):
        load(f"text:{tmp_path}/one", validation_fraction=0.01)
    config = DataConfig(corpus=f"text:{tmp_path}/?", validation_fraction=0.3)
    assert not [line for line in corpus.described(config) if "was asked for" in line]
    assert [
        line
        for line in corpus.described(DataConfig(corpus=f"text:{tmp_path}/?", validation_fraction=0.01))
        if "validation_fraction=0.01 was asked for" in line and "set another fraction" in line
    ]


def test_no_window_of_the_standard_library_is_on_both_sides() -> None:
    """0.1.0: 21 % of the windows and 27 % of the lines of 40 characters; the record says what is left."""
    found = load("python-stdlib")
    share = found.validation.size / (found.train.size + found.validation.size)
    assert 0.045 < share < 0.056
    train, validation = (stream.array().tobytes() for stream in (found.train, found.validation))
    lines = {line for line in train.replace(b"\0", b"\n").split(b"\n") if len(line) >= 40}
    ours = [line for line in validation.replace(b"\0", b"\n").split(b"\n") if len(line) >= 40]
    assert sum(line in lines for line in ours) / len(ours) < 0.02
    assert 0 < found.overlap.share < 0.01
    assert found.overlap.searched == 1
    first = corpus._load("python-stdlib", "bytes", 0.05, corpus.FIRST)
    assert first.overlap.share > 0.15  # the control
    if sys.version_info[:3] == (3, 11, 7):
        assert first.fingerprint == "489dc6ca6603976e"  # of the records in docs/


@pytest.mark.parametrize("size", [3000, 40_000])
def test_the_overlap_is_that_of_brute_force(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "_KEPT", 4096)  # of the larger one, a part of the windows is looked for
    rng = np.random.default_rng(0)
    train, validation = rng.integers(0, 9, size).astype(np.uint16), rng.integers(0, 9, size).astype(np.uint16)
    validation[size // 2 :] = train[: size - size // 2]
    known = {train[i : i + 64].tobytes() for i in range(size - 63)}
    truth = np.mean([validation[i : i + 64].tobytes() in known for i in range(size - 63)])
    found = overlap.overlap(Stream((train[: size // 3], train[size // 3 :])), Stream((validation,)))
    assert found.share == pytest.approx(truth, abs=0.03)
    assert overlap.overlap(Stream((train,)), Stream((train,))).share == 1
    other = rng.integers(9, 18, size).astype(np.uint16)
    assert overlap.overlap(Stream((train,)), Stream((other,))).share == 0


def test_a_long_stream_is_searched_in_part_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.random.default_rng(0).integers(0, 50000, 40_000).astype(np.uint16)
    monkeypatch.setattr(overlap, "READ", 20_000)
    monkeypatch.setattr(overlap, "_BLOCK", 1000)
    found = overlap.overlap(Stream((tokens,)), Stream((tokens[:2000],)))
    assert 0.2 < found.searched < 0.35
    assert "was searched)" in found.told


def test_one_set_of_files_is_one_corpus_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path / "texts", {f"in/{name}": text for name, text in PLAIN.items()})
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    spelled = ["texts", "./texts/", "texts/in", "link", "texts/in/*.txt", "texts/**/*.txt", "texts/../texts/in/*"]
    prints = {load(f"text:{path}").fingerprint for path in (*spelled, str(folder), f"{folder}/in/*.txt")}
    assert len(prints) == 1
    (folder / "in" / "00.txt").write_text("another\n")
    assert load("text:texts").fingerprint not in prints


def test_hidden_files_and_folders_are_left_out_at_any_depth(tmp_path: Path) -> None:
    root = written(tmp_path / ".cache" / "notes", {f"{name}": text for name, text in PLAIN.items()})
    plain = load(f"text:{root}").fingerprint
    written(root, {".git/objects/a": made(90, 20), "sub/.x/y/z.txt": made(91, 20), ".hidden": made(92, 20)})
    assert load(f"text:{root}").fingerprint == plain
    assert document.first_text_documents("", str(root))[0][0].startswith(".git")  # the control: 0.1.0 read them
    only = written(tmp_path / "only", {".git/a": "text\n"})
    with pytest.raises(InputError, match="matches no file, hidden ones aside"):
        load(f"text:{only}")


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    written(tmp_path, PLAIN)
    whole = corpus.described(DataConfig(corpus=f"text:{tmp_path}"))
    assert not [line for line in whole if "no text" in line]  # the control
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9)
    (tmp_path / "y.txt").write_bytes(made(97, 30).encode("utf-16"))
    (tmp_path / "z.txt").write_bytes(made(98, 30).encode("utf-16-le"))  # all of it is UTF-8, with zeros
    (line,) = (line for line in corpus.described(DataConfig(corpus=f"text:{tmp_path}/*")) if "no text" in line)
    assert f"3 of {len(PLAIN) + 3} files" in line
    assert "x.png, y.txt, z.txt" in line


def test_names_need_not_be_utf8(tmp_path: Path) -> None:
    written(tmp_path, PLAIN)
    odd = Path(f"{tmp_path}/caf\udce9.txt")
    try:
        odd.write_text(made(99, 30))
    except OSError:
        pytest.skip("this file system has no such names")
    found = load(f"text:{tmp_path}")
    letters = [stream.array()[stream.array() > 0].size for stream in (found.train, found.validation)]
    assert sum(letters) == sum(map(len, PLAIN.values())) + odd.stat().st_size
    (line,) = corpus.described(DataConfig(corpus=f"text:{odd}"))
    assert r"caf\udce9.txt" in line
    line.encode()  # it can be printed


def test_links_that_lead_nowhere_are_named_and_loops_end(tmp_path: Path) -> None:
    folder = written(tmp_path / "texts", PLAIN)
    plain = load(f"text:{folder}").fingerprint
    (folder / "loop").symlink_to(folder)
    outside = written(tmp_path / "out", {"far.txt": made(70, 30)}) / "far.txt"
    assert load(f"text:{folder}").fingerprint == plain
    assert load(f"text:{folder}/**/*.txt").fingerprint == plain
    (folder / "near.txt").symlink_to(outside)  # a file elsewhere, as in the caches of data sets
    linked = load(f"text:{folder}")
    line = made(70, 30).encode().splitlines()[0]  # of a file that may be cut
    assert line in linked.train.array().tobytes() + linked.validation.array().tobytes()
    (folder / "dead.txt").symlink_to(tmp_path / "gone")
    for spec in (f"text:{folder}", f"text:{folder}/*.txt", f"text:{folder}/dead.txt"):
        with pytest.raises(InputError, match=r"the link .*dead\.txt leads nowhere"):
            load(spec)
