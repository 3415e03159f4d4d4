"""The engine: same bytes for any number of workers and after any kill; nothing lost, nothing doubled."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import xxhash
from blake3 import blake3

from data_prep.convert import convert
from data_prep.dataset_card import balance
from data_prep.reading.inputs import InputError, expand_inputs
from data_prep.reading.units import Broken, plan_units, read_unit
from data_prep.settings import Settings
from data_prep.transform import Transform
from tests.data_prep.made_images import make_image
from tests.data_prep.made_records import GOOD
from tests.data_prep.made_sets import ROWS, digest, settings, source_file


def test_two_workers_write_the_same_bytes_and_keep_every_image(tmp_path: Path) -> None:
    source = source_file(tmp_path)
    convert([str(source)], tmp_path / "one", settings())
    manifest = convert([str(source)], tmp_path / "two", settings(), workers=2)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert manifest["records"] == {"in": ROWS, "used": ROWS, "rejected": 0}
    assert set(manifest["rows"]) == {"train", "val"}
    written = [r for s in manifest["shards"] for r in pq.read_table(tmp_path / "two" / s["file"]).to_pylist()]
    assert sorted(r["images"][0]["bytes"] for r in written) == sorted(make_image(n) for n in range(ROWS))
    for shard in manifest["shards"]:
        assert xxhash.xxh3_128_hexdigest((tmp_path / "two" / shard["file"]).read_bytes()) == shard["xxh3_128"]


def test_duplicates_are_dropped_once_over_all_units(tmp_path: Path) -> None:
    rows = [GOOD["rlaif_v"](n) for n in range(30)] + [{**GOOD["rlaif_v"](n), "idx": 100 + n} for n in range(15)]
    manifest = convert([str(source_file(tmp_path, rows))], tmp_path / "out", settings(val_share=0.0))
    assert manifest["records"] == {"in": 45, "used": 30, "rejected": 15}
    assert manifest["rejected"] == {"duplicate": 15}
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [r["row"] for r in rejected] == list(range(30, 45))
    ids = [i for s in manifest["shards"] for i in _column(tmp_path / "out" / s["file"], "pair_id")]
    assert len(ids) == len(set(ids)) == 30


def _column(path: Path, name: str) -> list[Any]:
    return [r[name] for r in pq.read_table(path)["extra_info"].to_pylist()]


def test_equal_ids_with_other_content_both_stay(tmp_path: Path) -> None:
    rows = [{**GOOD["rlaif_v"](n), "idx": 7} for n in range(4)]
    manifest = convert([str(source_file(tmp_path, rows))], tmp_path / "out", settings())
    assert manifest["records"]["used"] == 4


def test_a_record_in_part_duplicate_stays(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(make_image(1))
    first = {"prompt": "q?", "responses": ["a", "b"], "rankings": [1, 2], "image": "1.jpg"}
    second = {**first, "responses": ["a", "b", "c"], "rankings": [1, 2, 2]}
    # Ranks are kept in meta, not in the pair's identity.
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(first) + "\n" + json.dumps(second))
    manifest = convert([str(path)], tmp_path / "out", Settings("generic"))
    assert manifest["records"] == {"in": 2, "used": 2, "rejected": 0}
    assert manifest["dropped_pairs"] == {"duplicate": 1}
    assert manifest["rows"] == {"train": 3}


@pytest.mark.parametrize("orders", ["balanced", "both", "as_is"])
def test_orders(orders: Any, tmp_path: Path) -> None:
    manifest = convert([str(source_file(tmp_path))], tmp_path / "out", settings(orders=orders, val_share=0.0))
    expected = {"balanced": {"1": 30, "2": 30}, "both": {"1": 60, "2": 60}, "as_is": {"1": 60}}
    assert manifest["labels"] == {"train critic/rlaif_v": expected[orders]}


def test_labels_stay_balanced_whatever_is_left_out(tmp_path: Path) -> None:
    rows = [GOOD["rlaif_v"](n) for n in range(ROWS)]
    for n in range(0, ROWS, 4):  # gaps that always hit the same neighbour
        rows[n]["rejected"] = ""
    manifest = convert([str(source_file(tmp_path, rows))], tmp_path / "out", settings(val_share=0.3, unit_rows=100))
    assert manifest["records"]["rejected"] == ROWS // 4
    for counts in manifest["labels"].values():
        assert abs(counts["1"] - counts["2"]) <= 1


@pytest.mark.parametrize("hashes", [True, False])
def test_no_image_in_two_splits(hashes: bool, tmp_path: Path) -> None:
    rows = [{**GOOD["rlaif_v"](n), "image": GOOD["rlaif_v"](n % 20)["image"]} for n in range(ROWS)]
    manifest = convert([str(source_file(tmp_path, rows))], tmp_path / "out", settings(hashes=hashes))
    seen: dict[str, set[bytes]] = {"train": set(), "val": set()}
    for shard in manifest["shards"]:
        for images in pq.read_table(tmp_path / "out" / shard["file"])["images"].to_pylist():
            seen[shard["split"]].add(images[0]["bytes"])
    assert seen["train"]
    assert seen["val"]
    assert not seen["train"] & seen["val"]


def test_a_record_with_images_of_both_splits_is_rejected(tmp_path: Path) -> None:
    for n in range(30):
        (tmp_path / f"{n}.jpg").write_bytes(make_image(n))
    row = {**GOOD["sharegpt_ranking"](1), "images": [f"{n}.jpg" for n in range(30)]}
    (tmp_path / "in.json").write_text(json.dumps([row]))
    manifest = convert([str(tmp_path / "in.json")], tmp_path / "out", Settings("sharegpt_ranking", val_share=0.5))
    assert manifest["rejected"] == {"split-conflict": 1}


def test_referenced_images(tmp_path: Path) -> None:
    manifest = convert([str(source_file(tmp_path))], tmp_path / "out", settings(images="reference"))
    row = pq.read_table(tmp_path / "out" / manifest["shards"][0]["file"]).to_pylist()[0]
    path = Path(row["images"][0])
    assert blake3(path.read_bytes()).hexdigest() == path.stem == row["extra_info"]["image_blake3"][0]


def test_images_from_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("3.jpg", make_image(3))
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps(GOOD["mm_rlhf"](n)) for n in (3, 4)))
    options = Settings("mm_rlhf", image_roots=(str(tmp_path / "p.zip"),))
    manifest = convert([str(tmp_path / "in.jsonl")], tmp_path / "out", options)
    assert manifest["rejected"] == {"image-missing": 1}
    assert manifest["records"]["used"] == 1


def test_file_cut_in_the_middle(tmp_path: Path) -> None:
    whole = [GOOD["mm_rlhf"](n) for n in range(4)]
    for name, text in (("a.jsonl", "\n".join(map(json.dumps, whole))), ("b.json", json.dumps(whole))):
        (tmp_path / name).write_text(text[:-20])
    parquet = source_file(tmp_path)
    (tmp_path / "c.parquet").write_bytes(parquet.read_bytes()[:-50])
    parquet.unlink()
    for n in range(4):
        (tmp_path / f"{n}.jpg").write_bytes(make_image(n))
    manifest = convert([str(tmp_path)], tmp_path / "out", Settings("mm_rlhf"))
    # The last record of each text file is broken; the second file repeats the first.
    assert manifest["records"]["in"] == 9
    assert manifest["rejected"] == {"bad-json": 2, "duplicate": 3, "file-unreadable": 1}


def test_parquet_with_a_torn_page_is_counted_to_the_last_row(tmp_path: Path) -> None:
    source = source_file(tmp_path)
    raw = bytearray(source.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 3000] = bytes(3000)
    source.write_bytes(raw)
    manifest = convert([str(source)], tmp_path / "out", settings())
    assert manifest["records"]["in"] == ROWS
    assert 0 < manifest["records"]["rejected"] < ROWS


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("indent", [None, 2])
def test_json_list_is_cut_into_its_elements(rows: int, indent: int | None, tmp_path: Path) -> None:
    values = [{"a": 'x],{"\\', "b": [1, [2, "é\n"]], "n": n} for n in range(7)]
    (tmp_path / "x.json").write_text(json.dumps(values, indent=indent))
    units = plan_units([str(tmp_path / "x.json")], unit_rows=rows)
    found = [pair for unit in units for pair in read_unit(unit)]
    assert found == list(enumerate(values))


def test_limit_and_line_reading(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"n": 0}\r\n\n{"n": 1}\n{"n"\n\xff\xfe\n{"n": 4}')
    units = plan_units([str(tmp_path / "x.jsonl")], unit_rows=2, limit=4)
    found = [record for unit in units for _, record in read_unit(unit)]
    assert [f if isinstance(f, dict) else type(f) for f in found] == [{"n": 0}, {"n": 1}, Broken, Broken]


@pytest.mark.parametrize("given", [[], ["absent.jsonl"], ["*.nothing"]])
def test_no_input(given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        expand_inputs(given)


def test_inputs_by_glob_folder_and_address(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.parquet", "note.txt", "manifest.json"):
        (tmp_path / name).write_text("{}")
    data = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.parquet")]
    assert expand_inputs([str(tmp_path)]) == data
    assert expand_inputs([str(tmp_path / "*.jsonl")]) == data[:1]
    assert [Path(p.removeprefix("file://")).name for p in expand_inputs([f"file://{tmp_path}"])] == [
        "a.jsonl",
        "b.parquet",
    ]


def test_remote_file_is_read_like_a_local_one(tmp_path: Path) -> None:
    import fsspec

    source = source_file(tmp_path)
    with fsspec.open("memory://set/in.parquet", "wb") as stream:
        stream.write(source.read_bytes())
    remote = convert(["memory://set"], tmp_path / "remote", settings())
    local = convert([str(source)], tmp_path / "local", settings())
    assert remote == local


def test_archives_are_read_by_a_chained_address(tmp_path: Path) -> None:
    source = source_file(tmp_path)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.write(source, "part/in.parquet")
    chained = convert([f"zip://part/*.parquet::file://{tmp_path}/set.zip"], tmp_path / "chained", settings())
    assert chained == convert([str(source)], tmp_path / "local", settings())


def test_no_record_fits_unforeseen_shapes_without_a_trace() -> None:
    def broken(record: Any, options: Any) -> Any:
        raise KeyError("surprise")

    from data_prep.sources.record import Source

    outcome = Transform(Settings("x"), Source("x", "x", broken, "", "", ""))([(4, {})])
    assert outcome.rejected[0]["reason"] == "unforeseen"
    assert outcome.rejected[0]["row"] == 4


def test_card_is_what_the_hub_reads(tmp_path: Path) -> None:
    import datasets
    import yaml

    manifest = convert([str(source_file(tmp_path))], tmp_path / "out", settings())
    head = (tmp_path / "out" / "README.md").read_text().split("---")[1]
    card = yaml.safe_load(head)
    assert card["configs"][0]["data_files"] == [
        {"split": "train", "path": "train-*.parquet"},
        {"split": "validation", "path": "val-*.parquet"},
    ]
    assert (tmp_path / "out" / "card" / "labels.png").read_bytes().startswith(b"\x89PNG")
    # `datasets` refuses a folder whose card and files disagree about a column.
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {s: len(rows) for s, rows in loaded.items()} == {
        "train": manifest["rows"]["train"],
        "validation": manifest["rows"]["val"],
    }
    assert loaded["train"][0]["images"][0].size == (32, 24)
    # Without a model the histogram counts characters.
    lengths = manifest["prompt_lengths"]
    assert lengths["unit"] == "characters"
    assert sum(lengths["histogram"].values()) == ROWS
    assert lengths["longest"] == max(len(row["prompt"][0]["content"]) for split in loaded.values() for row in split)


def test_card_keeps_numbers_of_score_tasks_apart() -> None:
    names, found = balance({"train critic/a": {"1": 3, "tie": 1}, "train critic_score/a": {"1": 5, "8.5": 2}})
    assert names == ["1", "tie", "other"]
    assert found == {"train critic/a": [3, 1, 0], "train critic_score/a": [0, 0, 7]}


CLUSTER = """
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
input()
cluster.shutdown()
"""


def test_a_ray_cluster_writes_the_same_bytes(tmp_path: Path) -> None:
    """A cluster of two nodes that was started elsewhere; input and output are named relative to the driver's folder."""
    for part in range(3):
        rows = [GOOD["rlaif_v"](part * ROWS + n) for n in range(ROWS)]
        source_file(tmp_path, rows).rename(tmp_path / f"{part}.parquet")
    prepare = [str(Path(sys.executable).with_name("critic-r1")), "prepare", "rlaif_v", "--val-share", "0.2"]
    prepare += [a for part in range(3) for a in ("--input", f"{part}.parquet")]
    environment = {**os.environ, "RAY_DISABLE_METRICS_COLLECTION": "1"}
    subprocess.run([*prepare, "--output", "local"], cwd=tmp_path, env=environment, check=True, timeout=120)
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with cluster:
        assert cluster.stdin
        assert cluster.stdout
        environment["RAY_ADDRESS"] = next(line for line in cluster.stdout if line[:1].isdigit()).strip()
        command = [*prepare, "--output", "ray", "--engine", "ray", "--workers", "2"]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)
        cluster.communicate("\n", timeout=60)
    assert digest(tmp_path / "ray") == digest(tmp_path / "local")
