"""`reid models import-official` as a user runs it, and what the network then makes of crops."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from typer.testing import CliRunner, Result

from authors import make_authors, save_authors
from command_line import put, reid
from foreign_networks import save_small_onnx
from live_server import person
from model.checkpoint import load_checkpoint
from model.embedder import Embedder
from service.cli.main import app


def invoke(path: Path, out: Path, *options: str) -> Result:
    """Run the command in this process."""
    command = ["models", "import-official", str(path), "--out", str(out), *options]
    return CliRunner().invoke(app, command, catch_exceptions=False)


def test_an_authors_checkpoint_is_imported_and_embeds_as_theirs_does(tmp_path: Path) -> None:
    authors = make_authors("rgasc")
    parallel = {f"module.{name}": tensor for name, tensor in authors.state_dict().items()}
    path, out = (
        save_authors(tmp_path / "checkpoint_360.pth.tar", parallel),
        tmp_path / "new" / "rga.safetensors",
    )
    done = reid("models", "import-official", path, "--branch", "rgasc", "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    checkpoint = load_checkpoint(out)
    assert done.stdout == f"{checkpoint.version} in {out}: rga_sc_resnet50 with the pooled feature\n"
    card = checkpoint.card
    assert (card.architecture, card.feature, card.num_identities) == ("rga_sc_resnet50", "pooled", 7)
    assert card.recipe.startswith("checkpoint_360.pth.tar (SHA-256 ")
    assert card.recipe.endswith(") of the RGA authors' code, rgasc")
    crops = [person(1), person(2)]
    with torch.inference_mode():
        wanted = nn.functional.normalize(authors(checkpoint.preprocess(crops))["pooled"]).numpy()
    assert float(np.abs(Embedder(checkpoint, "torch-cpu", "fp32").embed(crops) - wanted).max()) < 1e-5

    again = invoke(path, out)
    assert again.exit_code == 1
    assert again.stderr == f"{out} is there already: remove it, or give another --out\n"
    bn = tmp_path / "bn.safetensors"
    assert invoke(path, bn, "--feature", "bn").exit_code == 0
    assert load_checkpoint(bn).card.feature == "bn"


def test_what_cannot_be_imported_ends_in_a_line_and_a_status(tmp_path: Path) -> None:
    path, out = tmp_path / "a.pth.tar", tmp_path / "out.safetensors"
    done = invoke(path, out)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"{path} cannot be read: No such file or directory\n"
    put(path, b"PK\x03\x04 torn")
    done = invoke(path, out)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"{path} cannot be read as a torch state dict")
    torch.save({"state_dict": {"guest": torch.zeros(1)}}, path)
    done = invoke(path, out, "--branch", "rgas")
    assert done.exit_code == 1
    assert done.stderr.startswith(
        f"{path} is not the authors' rgas at 256 x 128: backbone.conv1.weight is missing;"
    )
    assert done.stderr.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth.tar"]


def test_a_network_of_others_is_written_or_refused_in_a_line(tmp_path: Path) -> None:
    path, out = save_small_onnx(tmp_path / "small.onnx"), tmp_path / "out.safetensors"
    command = ["models", "import-onnx", str(path), "--height", "64", "--width", "32", "--out", str(out)]
    done = CliRunner().invoke(app, [*command, "--mean", "0", "--std", "1", "--scale", "1"])
    assert done.exit_code == 0
    checkpoint = load_checkpoint(out)
    assert done.stdout == f"{checkpoint.version}\n"
    assert [*checkpoint.card.mean, *checkpoint.card.std] == [0, 0, 0, 1 / 255, 1 / 255, 1 / 255]
    done = CliRunner().invoke(app, [*command, "--mean", "0", "--std", "1"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"{out} is there already: remove it, or give another --out\n"
    out.unlink()
    done = CliRunner().invoke(app, [*command, "--mean", "0,0", "--std", "1"])
    assert done.exit_code == 2
    assert "--mean" in done.stderr
    done = CliRunner().invoke(app, [*command, "--mean", "0", "--std", "0"])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "std" in done.stderr
    assert not out.exists()
