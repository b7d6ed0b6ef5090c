"""Q: mutated files of torch and mutated foreign networks are refused or as good as any, and run nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foreign_networks import make_card, save_ir
from model.checkpoint import save_foreign
from model.errors import CheckpointError
from model.interop.state_dicts import read_state_dict
from mutations import mutate

PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[5:]
from mutations import mutate
from model.checkpoint import load_checkpoint
from model.embedder import Embedder
from model.errors import ModelError
from model.interop.trial import limit, try_out

source, path = map(Path, sys.argv[1:3])
limit(source)
for seed in range(int(sys.argv[3]), int(sys.argv[4])):
    print("begin", seed, flush=True)
    path.write_bytes(mutate(source.read_bytes(), seed))
    try:
        try_out(Embedder(load_checkpoint(path)))
    except ModelError as error:
        print("refused", len(str(error)), flush=True)
"""
"""Tries mutated networks one after the other; it may be ended by a signal, as the process of a trial may."""


def test_q_mutated_foreign_networks_end_at_most_the_process_that_tries_them(
    tmp_path: Path, is_long: bool
) -> None:
    graph = save_ir(tmp_path / "small.xml")
    source = tmp_path / "small.safetensors"
    save_foreign(source, graph.read_bytes(), graph.with_suffix(".bin").read_bytes(), make_card())
    seed, end, num_signals = 0, 1_500 if is_long else 60, 0
    lengths: list[int] = []
    support = str(Path(__file__).parents[1] / "support")
    mutated = str(tmp_path / "mutated.safetensors")
    while seed < end:
        command = [sys.executable, "-c", PROGRAM, str(source), mutated, str(seed), str(end), support]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        begun = re.findall(r"^begin (\d+)$", done.stdout, re.MULTILINE)
        assert begun, done.stderr
        assert done.returncode <= 0, done.stderr
        lengths += map(int, re.findall(r"^refused (\d+)$", done.stdout, re.MULTILINE))
        seed, num_signals = int(begun[-1]) + 1, num_signals + (done.returncode < 0)
    assert num_signals < max(2, end / 50)
    assert len(lengths) > end / 3
    assert max(lengths) < 3_000


@pytest.mark.parametrize("is_zip", [True, False])
def test_q_mutated_files_of_torch_are_refused_or_read(tmp_path: Path, is_zip: bool, is_long: bool) -> None:
    source, path = tmp_path / "network.pth", tmp_path / "mutated.pth"
    state = {f"layer{one}.weight": torch.ones(4, 3) for one in range(5)}
    torch.save({"model": state, "epoch": 3}, source, _use_new_zipfile_serialization=is_zip)
    num_refused, num = 0, 1_500 if is_long else 150
    for seed in range(num):
        path.write_bytes(mutate(source.read_bytes(), seed))
        try:
            read_state_dict(path)
        except CheckpointError:
            num_refused += 1
    assert num_refused > num / 4
