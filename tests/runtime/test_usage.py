"""A wrong value of an option or argument: exit code 2 and one line that names it, for every command."""

import shlex

import pytest

from canthus.runtime.cli import main
from canthus.runtime.errors import CanthusError, UsageError
from canthus.runtime.streams.address import Address, parse_address
from canthus.trainer.faces.formats import open_set
from canthus.trainer.packs.pack import write_pack
from support.shards import write_shard
from support.videos import write_video

WRONG = """
video in.mp4 -o o.mp4 --crf 99
video in.mp4 -o o.mp4 --crf x
video in.mp4 -o o.mp4 --start 2 --end 1
video in.mp4 -o o.mp4 --start x
video in.mp4 -o o.mp4 --every 0
video in.mp4 -o o.mp4 --pix-fmt yuv999
video in.mp4 -o o.mp4 --codec prores
video in.mp4 -o o.mp4 --draw hats
video in.mp4 -o o.mp4 --focal 0
video in.mp4 -o o.avi
video in.mp4 -o in.mp4
video in.mp4 -o o.mov --table o.mov
video in.mp4 --table t.xyz
video in.mp4 --table - --resume
video in.mp4 --record-trace t.csv
video in.mp4 in.mp4 -o o.mp4
video in.mp4 --table t --shard 9/8
video in.mp4 --table t --jobs 1 --gpus -1
video rtsp://camera/live --table t
images in.mp4 --table - --jobs 2
images in.mp4 --table t.csv --jobs 2 --fetch
images in.mp4 --table t.csv --max-faces 0
stream --source in.mp4 --vmc host:99999
stream --source in.mp4 --osc 'a b'
stream --source in.mp4 --vmc 1:2:3
stream --source foo://x --vmc
stream --source in.mp4 --vmc --draw hats
stream --camera -1 --vmc
report t.csv -o page.txt
report .
calibrate --source in.mp4 -o me.txt
calibrate --source in.mp4 -o me.json --seconds -1
replay in.mp4 --tabel t.csv
bench nonsense
bench --focal nan
bench soak --hours -1
bench stages -o r --faces 0
bench peers -o r.json --rounds 0
doctor --nonsense
engine build --max-batch 0
engine build -o model.bin
engine remove
data prepare in.mp4 -o pack --size 0
label in.mp4 -o shard --every 0
train pack --set nonsense=1
train pack --set learning_rate=high
train pack --recipe nonsense
train pack --minutes -1
train-session pack --minutes -1
eval
eval --wflw in.mp4 --curve curve.txt
export x.safetensors -o x.bin
view foo://x
view --camera x
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a clip, a pack and a table."""
    folder = tmp_path_factory.mktemp("usage")
    write_video(folder / "in.mp4", [0.0, 0.04])
    write_shard(folder / "shard")
    write_pack([open_set(folder / "shard")], folder / "pack", 64)
    (folder / "t.csv").write_text("")
    return folder


@pytest.mark.usefixtures("fake_networks")
@pytest.mark.parametrize("line", WRONG.strip().splitlines())
def test_wrong_value_is_wrong_usage(folder, monkeypatch, capsys, line):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    try:
        code = main(shlex.split(line))
    except SystemExit as end:  # of argparse
        code = end.code
    output = capsys.readouterr()
    assert (code, output.out) == (2, ""), output.err
    assert output.err.splitlines()[-1].startswith(f"canthus {line.split()[0]}")
    assert len([one for one in output.err.splitlines() if one.startswith("canthus ")]) == 1
    assert sorted(folder.rglob("*")) == before


def test_wrong_usage_is_an_error_like_others():
    assert issubclass(UsageError, CanthusError)


@pytest.mark.usefixtures("fake_networks")
def test_missing_files_are_failures_not_wrong_usage(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for line in ("video no.mp4 --table x.csv", "report no.csv", "eval --wflw no", "replay no.trace"):
        assert main(line.split()) == 1


def test_pack_is_named_where_a_labelled_set_is_expected(folder, capsys):
    assert main(["eval", "--data", str(folder / "pack")]) == 1
    assert "is a pack of faces (expected the set that it was made from" in capsys.readouterr().err


def test_addresses_of_ipv6_need_no_brackets_without_a_port():
    assert parse_address("::1", Address("127.0.0.1", 9000)) == Address("::1", 9000)
    assert parse_address("[fe80::1]:80", Address("127.0.0.1", 9000)) == Address("fe80::1", 80)
