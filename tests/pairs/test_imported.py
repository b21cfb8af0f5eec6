"""Pairs that other tools made: read as they are, or refused in a sentence."""

import io
import tarfile

import fsspec
import numpy as np
import pytest
import torch
from webdataset import ShardWriter, TarWriter

from fewstep.errors import UserError
from fewstep.pairs.imported import open_pairs


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path


def arrays(n=10, shape=(3,), **others):
    random = np.random.default_rng(0)
    noise, data = random.normal(size=(2, n, *shape)).astype(np.float32)
    return {"noise": noise, "data": data, **others}


EXTRAS = {"label": np.arange(10) % 4, "weight": np.linspace(0, 2, 10, dtype=np.float32)}


def samples(fields, label="label.npy"):
    """Return the records of WebDataset that hold the pairs."""
    names = {"noise": "noise.npy", "data": "data.npy", "label": label, "weight": "weight.npy"}
    rows = [
        {names[field]: values[i] for field, values in fields.items()} for i in range(len(fields["noise"]))
    ]
    return [{"__key__": f"{i:04d}", **row} for i, row in enumerate(rows)]


def save_tar(path, records):
    path.parent.mkdir(exist_ok=True)
    with TarWriter(str(path), mtime=0) as tar:
        for record in records:
            tar.write(record)


def save_shards(folder, records):
    folder.mkdir()
    with ShardWriter(f"{folder}/%03d.tar", maxcount=4, verbose=0) as shards:
        for record in records:
            shards.write(record)


def upload(root, name, url):
    for file in (root / "data" / name).glob("*") if "." not in name else [root / "data" / name]:
        with fsspec.open(f"{url}/{file.name}", "wb") as remote:
            remote.write(file.read_bytes())


def saved(root, fields):
    """Return the sources under which the same pairs were saved in every way."""
    data = root / "data"
    np.savez(data / "plain.npz", **fields)
    np.savez_compressed(data / "small.npz", **fields)
    save_tar(data / "one.tar", samples(fields, label="cls"))
    save_shards(data / "many", samples(fields))
    for name in ("plain.npz", "one.tar"):
        upload(root, name, f"memory://{root.name}")
    upload(root, "many", f"memory://{root.name}/many")
    urls = [f"memory://{root.name}/{name}" for name in ("plain.npz", "one.tar", "many", "many/")]
    return ["plain.npz", "data/small.npz", "one.tar", "many", "data/many", *urls]


def refused(message, source, root, read=True):
    def take():
        pairs = open_pairs(source, root)
        return pairs.read(0, pairs.count) if read else pairs

    with pytest.raises(UserError, match=message):
        take()


def with_member(path, name, content=b"", **facts):
    """Add a member of any name and kind to a tar file of one pair."""
    save_tar(path, samples(arrays(n=1)))
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for fact, value in facts.items():
        setattr(member, fact, value)
    with tarfile.open(path, "a") as tar:
        tar.addfile(member, io.BytesIO(content))


# What is read


@pytest.mark.parametrize("shape", [(3,), (2, 4, 5)])
@pytest.mark.parametrize("extras", [{}, EXTRAS])
def test_every_way_to_save_pairs_gives_the_same_back(root, shape, extras):
    fields = arrays(shape=shape, **extras)
    expected = {field: torch.from_numpy(values) for field, values in fields.items()}
    for source in saved(root, fields):
        pairs = open_pairs(source, root)
        assert (pairs.count, pairs.shape, pairs.classes) == (10, shape, 4 if extras else 0)
        for start, stop in [(0, 4), (4, 10), (2, 9), (0, 10)]:  # on, across files, and back
            found = pairs.read(start, stop)
            assert found.keys() == expected.keys()
            for field, values in found.items():
                assert values.dtype == expected[field].dtype
                assert torch.equal(values, expected[field][start:stop])


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_floats_of_any_width_become_float32(root, dtype):
    fields = {field: values.astype(dtype) for field, values in arrays().items()}
    for source in saved(root, fields):
        found = open_pairs(source, root).read(0, 10)
        assert torch.equal(found["noise"], torch.from_numpy(fields["noise"].astype(np.float32)))


def test_pixels_are_scaled(root):
    fields = arrays(shape=(1, 2, 2))
    fields["data"] = np.random.default_rng(0).integers(0, 256, (10, 1, 2, 2), dtype=np.uint8)
    fields["data"][0, 0, 0] = 0, 255
    for source in saved(root, fields):
        data = open_pairs(source, root).read(0, 10)["data"]
        torch.testing.assert_close(data, torch.from_numpy(fields["data"]).float() / 127.5 - 1)
        assert (data.min(), data.max()) == (-1, 1)


def test_what_else_a_record_holds_is_passed_over(root):
    records = [record | {"json": {"tool": "x"}, "depth.npy": np.zeros(3)} for record in samples(arrays())]
    save_tar(root / "data" / "pairs" / "a.tar", records)
    (root / "data" / "pairs" / "README.md").write_text("pairs")
    (root / "data" / "pairs" / "._a.tar").write_bytes(b"what macOS leaves")
    (root / "data" / "pairs" / "b.tar.gz").write_bytes(b"more")
    pairs = open_pairs("pairs", root)
    assert torch.equal(pairs.read(0, 10)["data"], torch.from_numpy(arrays()["data"]))
    assert pairs.notes == ["data/pairs: passed over 10 .json, 10 depth.npy, 1 .gz, 1 .md"]


def test_only_what_is_asked_for_is_read(root):
    fields = arrays(n=50, shape=(4000,))
    with fsspec.open("memory://big.npz", "wb") as file:
        np.savez(file, **fields)
    files = fsspec.filesystem("memory")
    got, opened = [], files.open

    class Watched(io.BytesIO):
        def read(self, size=-1):
            got.append(size)
            return super().read(size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(files), "open", lambda self, path, mode: Watched(opened(path, mode).read()))
        pairs = open_pairs("memory://big.npz", root)
        pairs.read(0, 5)
    assert sum(got) < 4 * 5 * 16000  # of 100 rows


# What suits a model


def test_pairs_say_whether_they_suit_a_model(root):
    np.savez(root / "data" / "plain.npz", **arrays())
    np.savez(root / "data" / "labelled.npz", **arrays(label=np.array([0, 3, 1, 9, 8, 7, 6, 5, 4, 2])))
    plain, labelled = (open_pairs(f"{name}.npz", root) for name in ("plain", "labelled"))
    plain.must_suit(shape=(3,), classes=0)
    labelled.must_suit(shape=(3,), classes=10)
    for pairs, shape, classes, message in [
        (plain, (1, 8, 8), 0, r"plain\.npz holds pairs of shape \(3,\), but the model takes \(1, 8, 8\)"),
        (plain, (3,), 10, "holds no labels, but the model has 10 classes; add a label"),
        (labelled, (3,), 0, "holds labels, but the model has no classes; remove them"),
        (labelled, (3,), 9, "label 9 of pair 3 is none of the model's 9 classes"),
    ]:
        with pytest.raises(UserError, match=message):
            pairs.must_suit(shape=shape, classes=classes)


# What is refused: places


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pairs.npz", r"there is no data/pairs\.npz; put it there"),
        ("data/pairs.tar", r"there is no data/pairs\.tar; put it there"),
        ("pairs", "there is no data/pairs; put it there"),
        ("memory://none.npz", r"there is no memory://none\.npz"),
        ("digits", "'digits' is data that is built in, not pairs"),
        ("/etc/pairs.npz", "outside data/"),
        ("../pairs.npz", "outside data/"),
        ("nonsense://pairs", "can't read nonsense://pairs: .*[Pp]rotocol"),
    ],
)
def test_sources_that_lead_nowhere(root, source, message):
    refused(message, source, root)


def test_linked_folders_and_other_files_are_refused(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save_tar(elsewhere / "a.tar", samples(arrays()))
    (root / "data" / "linked").symlink_to(elsewhere)
    refused("data/linked is a link to a folder", "linked", root)
    refused("data/linked is a link to a folder", "linked/a.tar", root)
    (root / "data" / "empty").mkdir()
    refused("data/empty holds no .tar files; pairs are", "empty", root)
    (root / "data" / "pairs.tar.gz").write_bytes(b"")
    refused(r"data/pairs\.tar\.gz holds no \.tar files; .* not compressed", "pairs.tar.gz", root)


# What is refused: arrays


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("an object was unpickled",))


BOMBS = np.array([Bomb()] * 10, dtype=object)
WITH_NAN = arrays()["data"]
WITH_NAN[7:, 1] = np.nan
HUGE = arrays()["noise"].astype(np.float64)
HUGE[3] = 1e300
WRONG_NUMBERS = [  # in any file
    ({"noise": np.ones((10, 3), int)}, r"noise(\.npy of pair 0)? is int64; save it as floats"),
    ({"noise": np.ones((10, 3), np.uint8)}, "noise.* is uint8; save it as floats"),
    ({"data": np.ones((10, 3), np.uint8)}, "data.* is uint8; save it as floats, or as uint8 if it is images"),
    ({"data": np.ones((10, 3), complex)}, "data.* is complex128; save it as floats"),
    ({"data": WITH_NAN}, r"3 of the pairs 0 to 9 hold NaN or infinity in their data, the first is number 7 "),
    ({"noise": HUGE}, "1 of the pairs 0 to 9 hold NaN or infinity in their noise, the first is number 3 "),
    ({"label": np.linspace(0, 1, 10)}, "label.* is float64; labels must be whole numbers"),
    ({"label": np.arange(10) - 5}, "label -5 of pair 0 is negative; count from 0"),
    ({"weight": np.ones(10, int)}, "weight.* is int64; save it as floats"),
    (
        {"weight": np.linspace(1, -1, 10)},
        "5 of the pairs 0 to 9 have a negative weight, the first is number 5",
    ),
]
WRONG_ARRAYS = [
    ({"noise": BOMBS}, "noise holds Python objects, which are never read"),
    ({"label": BOMBS}, "label holds Python objects, which are never read"),
    ({"data": arrays(n=9)["data"]}, r"noise has shape \(10, 3\) and data \(9, 3\); row by row"),
    ({"data": arrays(shape=(4,))["data"]}, r"noise has shape \(10, 3\) and data \(10, 4\)"),
    ({"noise": np.ones(10), "data": np.ones(10)}, r"noise has shape \(10,\); \(pairs, \*shape\) is needed"),
    ({"noise": np.array(1.0), "data": np.array(1.0)}, r"noise has shape \(\)"),
    ({"label": np.zeros(9, int)}, r"label has shape \(9,\); 10 pairs need shape \(10,\)"),
    ({"weight": np.zeros((10, 1))}, r"weight has shape \(10, 1\); 10 pairs need shape \(10,\)"),
    (
        {"noise": np.asfortranarray(arrays()["noise"])},
        "noise is stored column after column; save numpy.ascont",
    ),
    (arrays(n=0), "is empty: it holds no pairs"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_NUMBERS)
def test_wrong_numbers_are_refused_wherever_they_are(root, wrong, message):
    np.savez(root / "data" / "pairs.npz", **arrays() | wrong)
    save_shards(root / "data" / "pairs", samples(arrays() | wrong))
    refused(rf"data/pairs\.npz.*{message}", "pairs.npz", root)
    refused(rf"data/pairs.*{message}", "pairs", root)


@pytest.mark.parametrize(("wrong", "message"), WRONG_ARRAYS)
def test_arrays_that_do_not_go_together_are_refused(root, wrong, message):
    np.savez(root / "data" / "pairs.npz", **arrays() | wrong)
    refused(rf"data/pairs\.npz.*{message}", "pairs.npz", root, read=False)


def test_a_missing_array_is_reported_with_those_there_are(root):
    np.savez(root / "data" / "pairs.npz", noise=np.ones((2, 2)), x=np.ones(2))
    refused(r"data/pairs\.npz holds noise, x, but no array 'data'", "pairs.npz", root)
    np.savez(root / "data" / "pairs.npz")
    refused(r"data/pairs\.npz holds nothing, but no array 'noise'", "pairs.npz", root)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_is_refused(root, save):
    path = root / "data" / "pairs.npz"
    save(path, **arrays(n=1000))
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    refused(r"data/pairs\.npz is no readable \.npz file", "pairs.npz", root)
    path.write_bytes(b"")
    refused(r"data/pairs\.npz is no readable \.npz file", "pairs.npz", root)
    path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 255]) + whole[5001:])
    refused(r"data/pairs\.npz: noise is damaged", "pairs.npz", root)


# What is refused: records


def changed(**others):
    """Return ten records, the fourth of which has other members; None is for none."""
    records = samples(arrays())
    fields = records[3] | {name.replace("_", "."): value for name, value in others.items()}
    records[3] = {name: value for name, value in fields.items() if value is not None}
    return records


WRONG_RECORDS = [
    (changed(data_npy=None), "record '0003' lacks data.npy; every record holds noise.npy and data.npy"),
    (changed(noise_npy=None), "record '0003' lacks noise.npy"),
    (changed(cls=3), "record '0003' holds data, label, noise, but the first one data, noise"),
    (
        changed(data_npy=np.ones(4)),
        r"data\.npy of pair 3 has shape \(4,\), not \(3,\); all pairs are of one shape",
    ),
    (changed(noise_npy=np.array(1.0)), r"noise\.npy of pair 3 has shape \(\), not \(3,\)"),
    (changed(data_npy=b"\x93NUMPY broken"), r"data\.npy of pair 3 is no readable \.npy array"),
    ([changed()[3] | {"cls": "cat"}], "the label of record '0003' is b'cat'; labels must be whole"),
    ([changed()[3] | {"cls": 2**70}], "the label of record '0003' is b'1180.*'; labels must be whole"),
    (
        [changed()[3] | {"label.npy": np.arange(2)}],
        r"label of record '0003' has shape \(2,\); a pair has one",
    ),
    ([changed()[3] | {"cls": 1, "label.npy": np.array(1)}], "record '0003' holds its label twice"),
    ([changed()[3] | {"weight.npy": np.ones(1)}], r"weight\.npy of pair 0 has shape \(1,\), not \(\)"),
    (changed() + changed()[:1], "holds record '0000' twice"),
    ([changed()[3] | {"pyd": [1]}], r"member '0003\.pyd' is a pickle, which is never read"),
    ([{"__key__": "0", "json": {}}], "is empty: it holds no pairs"),
    ([], "is empty: it holds no pairs"),
]


@pytest.mark.parametrize(("records", "message"), WRONG_RECORDS)
def test_wrong_records_are_refused(root, records, message):
    save_tar(root / "data" / "pairs.tar", records)
    refused(rf"data/pairs\.tar.*{message}", "pairs.tar", root)


def test_objects_in_a_record_are_not_unpickled(root):
    stream = io.BytesIO()
    np.save(stream, BOMBS)
    save_tar(root / "data" / "pairs.tar", changed(data_npy=stream.getvalue()))
    refused(r"data/pairs\.tar: data\.npy of pair 3 holds Python objects", "pairs.tar", root)


@pytest.mark.parametrize("name", ["/0.data.npy", "../0.data.npy", "a/../../0.data.npy", "/etc/passwd"])
def test_a_member_that_leads_out_of_the_archive_is_refused(root, name):
    with_member(root / "data" / "pairs.tar", name)
    refused(r"data/pairs\.tar: member '.*' leads out of the archive", "pairs.tar", root)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_plain_file_is_refused(root, kind):
    with_member(root / "data" / "pairs.tar", "0001.data.npy", type=kind, linkname="0000.data.npy")
    refused(r"member '0001\.data\.npy' is a link or no plain file", "pairs.tar", root)


@pytest.mark.parametrize("name", ["0000.PKL", "x.pth", "deep/0.pickle"])
def test_pickles_of_any_name_are_refused(root, name):
    with_member(root / "data" / "pairs.tar", name)
    refused(rf"data/pairs\.tar: member '{name}' is a pickle", "pairs.tar", root)


def test_folders_in_a_tar_are_ignored(root):
    with_member(root / "data" / "pairs.tar", "deep", type=tarfile.DIRTYPE)
    assert open_pairs("pairs.tar", root).count == 1


@pytest.mark.parametrize("kept", [0, 100, 512, 700, 1100, 1536, 5000, 10 * 4 * 512 - 512, 10 * 4 * 512])
def test_a_tar_that_was_cut_anywhere_is_refused(root, kept):
    path = root / "data" / "pairs.tar"
    save_tar(path, samples(arrays()))
    path.write_bytes(path.read_bytes()[:kept])  # each of ten pairs takes 4 blocks of 512 bytes
    refused(r"data/pairs\.tar is (no readable|cut or damaged)", "pairs.tar", root)


def test_what_is_no_tar_or_several_joined_is_refused(root):
    path = root / "data" / "pairs.tar"
    path.write_bytes(b"not a tar" * 200)
    refused(r"data/pairs\.tar is no readable \.tar file", "pairs.tar", root)
    save_tar(path, samples(arrays()))
    whole = path.read_bytes()
    path.write_bytes(whole + whole)
    refused(r"data/pairs\.tar goes on after its end", "pairs.tar", root)
    path.write_bytes(whole[:1024] + b"x" * 512 + whole[1536:])  # a damaged header in the middle
    refused(r"data/pairs\.tar is cut or damaged", "pairs.tar", root)
