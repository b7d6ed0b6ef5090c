"""Import of the RGA authors' checkpoints: every tensor is used, and the embeddings are the authors'."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from authors import make_authors, save_authors
from model.architectures import build_network
from model.checkpoint import load_checkpoint
from model.errors import CheckpointError
from model.interop.official import BRANCHES, import_official
from model.interop.state_dicts import read_state_dict
from references import DATA, AuthorsAttention, AuthorsNetwork

LEFT_OUT = {"rgasc": "", "rgas": "_channel.", "rgac": "_spatial."}

Refuse = Callable[..., str]


def official_shapes(branch: str) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the authors' ResNet-50 with 767 identities."""
    lines = (DATA / "official_state_dict_keys.txt").read_text().splitlines()
    shapes = {}
    for name, shape in map(str.split, lines):
        if not LEFT_OUT[branch] or LEFT_OUT[branch] not in name:
            shapes[name] = () if shape == "scalar" else tuple(map(int, shape.split("x")))
    return shapes


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """The state dict of rgac, the smallest of the authors' three networks."""
    return make_authors("rgac").state_dict()


@pytest.mark.parametrize("branch", BRANCHES)
def test_the_twin_has_the_names_and_shapes_of_the_authors_network(branch: str) -> None:
    with torch.device("meta"):
        state = AuthorsNetwork(branch, 767).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == official_shapes(branch)


@pytest.mark.parametrize(
    ("setting", "kinds"),
    [("rga_s", {"channel": False}), ("rga_c", {"spatial": False}), ("rga_sc", {})],
)
def test_the_twin_of_a_module_agrees_with_the_authors_numbers(setting: str, kinds: dict[str, bool]) -> None:
    tensors = load_file(DATA / "rga_module_vectors.safetensors")
    start = f"{setting}/state_dict/"
    state = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    twin = AuthorsAttention(64, 16 * 8, **kinds)
    loaded = twin.load_state_dict(state, strict=False)
    assert not loaded.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in loaded.missing_keys)
    with torch.inference_mode():
        found = twin.eval()(tensors[f"{setting}/input"])
    torch.testing.assert_close(found, tensors[f"{setting}/output_eval"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("branch", BRANCHES)
def test_every_tensor_of_the_authors_is_imported(branch: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {
        name: torch.rand(shape) if shape else torch.tensor(7)
        for name, shape in official_shapes(branch).items()
    }
    import_official(save_authors(tmp_path / "a.pth.tar", state), tmp_path / "a.safetensors", branch=branch)
    checkpoint = load_checkpoint(tmp_path / "a.safetensors")
    ours = checkpoint.network.state_dict()
    assert checkpoint.card.num_identities == 767
    assert checkpoint.card.architecture == BRANCHES[branch]
    sums = [sum(float(t.double().sum()) for t in s.values() if t.dim()) for s in (ours, state)]
    sizes = [sum(t.numel() for t in s.values() if t.dim()) for s in (ours, state)]
    assert sizes[0] == sizes[1]
    assert sums[0] == pytest.approx(sums[1], rel=1e-12)
    assert {int(t) for t in ours.values() if not t.dim()} == {7}


@pytest.mark.parametrize("branch", BRANCHES)
def test_our_network_makes_the_authors_embeddings(branch: str, tmp_path: Path) -> None:
    authors = make_authors(branch)
    path, out = save_authors(tmp_path / "a.pth.tar", authors.state_dict()), tmp_path / "out.safetensors"
    import_official(path, out, branch=branch)
    network = load_checkpoint(out).network.double()  # in float32 the order of a sum changes results by 1e-5
    images = torch.randn(1, 3, 256, 128, dtype=torch.float64)
    with torch.inference_mode():
        wanted = authors.double()(images)
        for feature in ("pooled", "bn"):
            network.feature = feature
            torch.testing.assert_close(network(images), wanted[feature], atol=1e-9, rtol=1e-9)
    assert (
        wanted["pooled"] - wanted["bn"]
    ).abs().max() > 0.1  # otherwise the test could not tell the features apart


@pytest.fixture
def refuse(tmp_path: Path) -> Refuse:
    """Return a function that imports a file, checks that nothing was written, and returns the error."""

    def end(path: Path, branch: str = "rgac") -> str:
        with pytest.raises(CheckpointError) as caught:
            import_official(path, tmp_path / "out.safetensors", branch=branch)
        line = str(caught.value)
        assert "\n" not in line
        assert str(path) in line or path.name in line
        assert not (tmp_path / "out.safetensors").exists()
        return line

    return end


def test_tensors_that_are_missing_extra_or_misshapen_are_listed(
    refuse: Refuse, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "a.pth.tar"
    changed = {name: tensor for name, tensor in state.items() if name != "feat_bn.weight"}
    changed |= {"guest": torch.zeros(1), "backbone.conv1.weight": torch.zeros(64, 3, 3, 3)}
    line = refuse(save_authors(path, changed))
    assert "is not the authors' rgac at 256 x 128: feat_bn.weight is missing; " in line
    assert "guest does not belong there; " in line
    assert line.endswith("backbone.conv1.weight is (64, 3, 3, 3), not (64, 3, 7, 7)")
    less = {name: tensor for name, tensor in state.items() if "layer4" not in name}
    line = refuse(save_authors(path, less))
    assert line.count(" is missing") == 10
    assert line.endswith(f" and {len(state) - len(less) - 10} more")
    without = {name: tensor for name, tensor in state.items() if name != "cls.weight"}
    assert refuse(save_authors(path, without)).endswith("cls.weight is missing")
    ours = build_network("rga_c_resnet50", height=256, width=128, num_identities=3).state_dict()
    assert "is missing; " in refuse(save_authors(path, ours))


def test_a_checkpoint_of_another_branch_is_named(
    refuse: Refuse, state: dict[str, Tensor], tmp_path: Path
) -> None:
    line = refuse(save_authors(tmp_path / "a.pth.tar", state), "rgasc")
    assert "is not the authors' rgasc, but their rgac: give --branch rgac: " in line


def test_a_weight_that_is_not_finite_is_refused(
    refuse: Refuse, state: dict[str, Tensor], tmp_path: Path
) -> None:
    changed = state | {"feat_bn.bias": torch.full((2048,), torch.nan)}
    assert "not finite in neck.bias" in refuse(save_authors(tmp_path / "a.pth.tar", changed))


def test_a_tensor_with_more_numbers_than_its_memory_holds_is_refused(
    refuse: Refuse, state: dict[str, Tensor], tmp_path: Path
) -> None:
    changed = state | {"cls.weight": torch.zeros(1).expand(10**9, 2048)}
    line = refuse(save_authors(tmp_path / "a.pth.tar", changed))
    assert line.endswith("has a tensor that is not dense, real and whole in memory: cls.weight")


def test_files_of_another_kind_are_refused_in_one_line(refuse: Refuse, tmp_path: Path) -> None:
    path = tmp_path / "a.pth.tar"
    assert refuse(path) == f"{path} cannot be read: No such file or directory"
    for content in (b"", b"<html>", b"PK\x03\x04" + bytes(60), pickle.dumps("text"), bytes(100)):
        path.write_bytes(content)
        refuse(path)
    contents: list[object] = [
        [torch.zeros(1)],
        {"state_dict": {}},
        {"state_dict": {3: torch.zeros(1)}},
        {"a": 3},
    ]
    for other in contents:
        torch.save(other, path)
        assert refuse(path).startswith(f"{path} holds no state dict of tensors")


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_torn_or_damaged_file_is_read_or_raises_a_checkpoint_error(is_zip: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pth.tar"
    torch.save({"state_dict": {"a": torch.rand(9)}}, path, _use_new_zipfile_serialization=is_zip)
    content = path.read_bytes()
    torn = [content[:end] for end in range(0, len(content), 7)]
    damaged = [
        content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :]
        for place in range(min(400, len(content)))
        for flip in (0x55, 0x80)
    ]
    refusals: dict[int, str] = {}
    for number, broken in enumerate([*torn, *damaged]):
        path.write_bytes(broken)
        try:
            read_state_dict(path)
        except CheckpointError as error:
            refusals[number] = str(error)
    assert len(refusals) > len(torn)
    assert set(range(len(torn))) <= set(refusals)
    assert not any("\n" in line for line in refusals.values())


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_hostile_pickle_is_not_run(is_zip: bool, refuse: Refuse, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, (f"open({str(tmp_path / 'exploded')!r}, 'w')",)

    path = tmp_path / "a.pth.tar"
    torch.save({"state_dict": Bomb()}, path, _use_new_zipfile_serialization=is_zip)
    assert "is refused: unpickling it would run " in refuse(path)
    path.write_bytes(pickle.dumps(Bomb()))
    refuse(path)
    assert not (tmp_path / "exploded").exists()


def test_an_existing_file_is_not_replaced(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = save_authors(tmp_path / "a.pth.tar", state)
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="is there already: remove it, or give another --out"):
        import_official(path, out, branch="rgac")
    assert out.read_bytes() == b"mine"
    with pytest.raises(CheckpointError, match=r"out\.safetensors/b cannot be written: File exists"):
        import_official(path, out / "b", branch="rgac")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.pth.tar", "out.safetensors"]
