"""Files that come from somewhere else are read without running what they contain."""

import pickle
from collections import Counter, OrderedDict
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from peft_coop.untrusted_files import load_pickle, load_torch_file


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


class StandIn:
    """Takes whatever it is given."""

    def __new__(cls, *given):
        return super().__new__(cls)


def test_plain_pickles_and_known_classes(tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": [1, "b", (2.5, None)], "c": Counter("aab")}))
    known = {("collections", "Counter"): OrderedDict}
    assert load_pickle(path, known) == {"a": [1, "b", (2.5, None)], "c": OrderedDict(a=2, b=1)}
    with pytest.raises(ValueError, match=r"a\.pkl cannot be read: it contains collections\.Counter, and loading that"):
        load_pickle(path, {})


def test_tensors_and_stand_ins(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.arange(3), "b": Fraction(1, 2)}, path)
    stand_in = type("Fraction", (StandIn,), {"__module__": "fractions"})
    content = load_torch_file(path, [stand_in])
    assert content["a"].tolist() == [0, 1, 2]
    assert type(content["b"]) is stand_in
    with pytest.raises(
        ValueError, match=r"a\.pt cannot be read: it contains fractions\.Fraction, and loading that could"
    ):
        load_torch_file(path)


def test_nothing_in_torchs_files_is_run(tmp_path):
    path, trace = tmp_path / "a.pt", tmp_path / "trace"
    torch.save(Attack(trace), path)
    with pytest.raises(ValueError, match=r"a\.pt cannot be read: it contains \S+, and loading that could run code"):
        load_torch_file(path)
    assert not trace.exists()


@pytest.mark.parametrize("read", [lambda path: load_pickle(path, {}), load_torch_file])
def test_missing_and_damaged_files_are_told_apart(tmp_path, read):
    path = tmp_path / "a.bin"
    with pytest.raises(FileNotFoundError, match=r"a\.bin"):
        read(path)
    path.write_bytes(b"\x80\x02damaged")
    with pytest.raises(ValueError, match=r"a\.bin cannot be read: it (is no pickle|was not written by .*), or"):
        read(path)
